"""Checkpoints: save and restore behind one door; nothing else in coca_jax imports Orbax."""

from coca_jax.checkpoints.store import CheckpointStore

__all__ = ["CheckpointStore"]
