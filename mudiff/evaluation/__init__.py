"""Metrics, scores, statistics, tables and statements."""
