"""A classifier over pooled token states, for encoders that were pretrained to be pooled.

The face is lazy: the configuration needs Transformers, the model torch as well.
"""
