"""What knows nothing of training: text, files, YAML, the Hub, noisy libraries."""
