"""A linear model on the vectors of a frozen encoder, in place of a training."""
