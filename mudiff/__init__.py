"""MU-Diff, a mutual learning diffusion model for synthetic MRI: a reproducibility package."""

__version__ = "0.1.0"
