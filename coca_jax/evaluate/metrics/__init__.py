"""Metrics that evaluations share: pure functions of scores, ranks and texts."""
