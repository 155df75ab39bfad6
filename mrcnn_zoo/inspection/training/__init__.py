"""Pictures and tables of what training makes of an image."""
