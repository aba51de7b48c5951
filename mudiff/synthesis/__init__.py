"""Trained runs applied: slices, whole volumes, the released weights."""
