"""Checkpoint folders, read and written tensor by tensor."""
