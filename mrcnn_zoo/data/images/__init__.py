"""Image files: reading, pixel formats, and messages about unreadable ones."""
