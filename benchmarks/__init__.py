"""What steadytune costs: each figure against plain training in the same run, beside the target it has to meet."""
