"""Many runs, and what they say about methods."""
