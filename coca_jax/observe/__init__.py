"""Metrics, progress, profiles, wall time and the report of a run. Needs no model."""
