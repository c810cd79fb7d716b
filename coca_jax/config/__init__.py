"""One configuration tree: its defaults, how it is read, and what can be wrong with it."""

from coca_jax.config.default import default_config, finish
from coca_jax.config.loading import differences, load_config, to_json
from coca_jax.config.model import model_config
from coca_jax.config.record import read_config, write_config
from coca_jax.config.validation import validate

__all__ = [
    "default_config",
    "differences",
    "finish",
    "load_config",
    "model_config",
    "read_config",
    "to_json",
    "validate",
    "write_config",
]
