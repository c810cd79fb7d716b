"""Generating captions with a key/value cache."""

from coca_jax.generate.greedy import Generated, greedy

__all__ = ["Generated", "greedy"]
