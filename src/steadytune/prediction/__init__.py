"""From rows without labels to predictions: which model, which columns, in bounded memory."""
