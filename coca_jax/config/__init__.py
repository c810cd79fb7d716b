"""The configuration: its schema, and how it is read, checked and stored."""

from coca_jax.config.loading import load_config
from coca_jax.config.record import read_config, write_config
from coca_jax.config.resolve import model_config
from coca_jax.config.schema import Config
from coca_jax.config.tree import build, default_config, differences, finish, to_json

__all__ = [
    "Config",
    "build",
    "default_config",
    "differences",
    "finish",
    "load_config",
    "model_config",
    "read_config",
    "to_json",
    "write_config",
]
