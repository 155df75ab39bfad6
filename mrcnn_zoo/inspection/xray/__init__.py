"""The stages of one prediction as an HTML page."""
