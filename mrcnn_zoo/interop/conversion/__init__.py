"""Whether a converted model computes what the model it comes from does."""
