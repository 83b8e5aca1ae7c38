"""The Trainer of Transformers with methods."""
