"""CoCa (Contrastive Captioners, arXiv 2205.01917) in JAX: pretraining and what one does after."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Imports `load` when it is first used, so that `import coca_jax` costs nothing."""
    if name == "load":
        from coca_jax.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
