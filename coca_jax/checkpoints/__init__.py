"""Checkpoints: save and restore behind one door; nothing else in coca_jax imports Orbax."""

from typing import Any

__all__ = ["CheckpointStore"]


def __getattr__(name: str) -> Any:
    # Who only reads what a checkpoint says of itself, as a report does, need not load JAX.
    if name == "CheckpointStore":
        from coca_jax.checkpoints.store import CheckpointStore

        return CheckpointStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
