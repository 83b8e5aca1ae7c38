"""Search of settings by trials."""
