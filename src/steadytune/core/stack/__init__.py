"""Runs the methods of one training: composition, the step, state, logs."""
