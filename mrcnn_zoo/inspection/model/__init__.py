"""Parameters, FLOPs, times, weights and receptive fields of a model."""
