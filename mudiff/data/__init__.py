"""NIfTI volumes to slices to a batch."""
