"""Reports on sweeps: one model of the content, and a file per format."""
