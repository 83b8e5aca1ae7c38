"""From rows to features, and from outputs to scores."""
