"""From records to batches: selection, samplers, mappers, loaders."""
