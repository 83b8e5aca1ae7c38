"""Tasks that are known by name, and where their rows are found."""
