"""The user's files: formats, columns, labels, faulty rows."""
