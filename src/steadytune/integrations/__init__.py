"""Where a training loop calls the stack: the Trainer of Transformers; a plain loop calls `Stack.loss` itself."""
