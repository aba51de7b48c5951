"""Profiles, the training loop and the folders of runs."""
