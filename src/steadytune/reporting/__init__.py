"""A comparison as a page, Markdown, CSV, JSON and a model card."""
