"""How methods meet one training step; knows no method, no host and no task."""
