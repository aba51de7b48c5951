"""Style, and the figures of each notebook."""
