"""What the author of a method reads: roles, hyperparameters, cost, the step and its passes."""
