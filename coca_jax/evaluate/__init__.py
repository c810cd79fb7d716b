"""Evaluators: a model's handle and batches in, metrics and pictures for the report out."""
