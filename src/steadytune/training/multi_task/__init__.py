"""One encoder on several tasks."""
