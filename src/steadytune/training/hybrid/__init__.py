"""The hybrid network on WNLI."""
