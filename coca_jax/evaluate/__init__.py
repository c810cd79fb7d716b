"""Evaluations: one class a task; a model and its data in, metrics and artifacts out."""
