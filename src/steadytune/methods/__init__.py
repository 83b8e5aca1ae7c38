"""One file and one card per method, the registry, and the papers' presets."""
