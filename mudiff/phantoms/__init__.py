"""The embedded default: simulated cohorts on real anatomy."""
