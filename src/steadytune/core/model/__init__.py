"""What methods ask a model: outputs, rows, embeddings, layers, wrappers."""
