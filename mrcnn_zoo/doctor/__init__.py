"""A minute before training: checks of the datasets of a config against the data themselves and the model."""
