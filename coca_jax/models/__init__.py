"""The CoCa model as pure Linen modules, described by one configuration."""

from coca_jax.models.attention_maps import attention_maps
from coca_jax.models.coca import CoCa, CoCaOutput, init_params
from coca_jax.models.config import CoCaConfig, HeadConfig, ImageConfig, PoolerConfig, TextConfig
from coca_jax.models.heads import CoCaClassifier, PooledClassifier, make_model
from coca_jax.models.image_encoder import normalize_pixels
from coca_jax.models.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "CoCa",
    "CoCaClassifier",
    "CoCaConfig",
    "CoCaOutput",
    "HeadConfig",
    "ImageConfig",
    "PooledClassifier",
    "PoolerConfig",
    "TextConfig",
    "attention_maps",
    "init_params",
    "make_model",
    "normalize_pixels",
    "preset",
]
