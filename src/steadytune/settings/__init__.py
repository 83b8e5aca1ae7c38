"""The settings of each verb, and how files and options become settings."""
