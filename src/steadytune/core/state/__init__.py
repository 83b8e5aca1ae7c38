"""A stack's state on disk: files, checksums, the teacher's weights."""
