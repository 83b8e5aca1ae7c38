"""What `init` proposes for the user's rows."""
