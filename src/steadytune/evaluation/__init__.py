"""What a fine-tuned model is worth beyond its score: robustness, calibration, smoothness, how far it moved.

Everything takes rows, arrays or a model in evaluation mode, and returns plain dataclasses; no file is read or written.
"""
