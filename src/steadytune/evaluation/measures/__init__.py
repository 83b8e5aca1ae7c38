"""The measurements, each on outputs or on a model."""
