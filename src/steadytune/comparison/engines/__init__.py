"""Where runs are executed: local processes or Ray."""
