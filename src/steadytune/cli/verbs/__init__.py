"""The verbs' work, one file each."""
