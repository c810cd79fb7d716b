"""Models as functions that run without coca_jax: StableHLO for JAX, ONNX for other runtimes."""

from coca_jax.export.folder import export_model, require_settings, require_writable

__all__ = ["export_model", "require_settings", "require_writable"]
