"""Paths, URLs and files: the one way in which coca_jax reaches what is stored."""
