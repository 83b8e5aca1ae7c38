"""Models of our own: several tasks over one encoder, and the hybrid network for pronouns."""
