"""Runs of many configurations, and their comparison."""
