"""Training a model to be an int8 file: fake quantisation in its graph."""
