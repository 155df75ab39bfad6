"""From records to batches: selection, samplers, the mapper, loaders."""
