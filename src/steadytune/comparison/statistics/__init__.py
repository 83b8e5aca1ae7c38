"""Paired tests, cells and the verdict."""
