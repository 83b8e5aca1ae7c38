"""A run is one folder: its settings, models, progress, metrics, and how it resumes."""
