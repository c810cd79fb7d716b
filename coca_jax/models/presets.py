"""Named model sizes: the paper's three (arXiv 2205.01917, table 1) and small ones."""

import dataclasses

from coca_jax.errors import UserError
from coca_jax.models.config import CoCaConfig, ImageConfig, PoolerConfig, TextConfig

PRESETS = {
    "base": CoCaConfig(),
    "large": CoCaConfig(
        image=ImageConfig(width=1024, layers=24, heads=16, mlp=4096),
        text=TextConfig(width=1024, heads=16, mlp=4096),
        pooler=PoolerConfig(heads=16),
    ),
    # The table's 1.1B decoder and 2.1B total only come out with a softmax tied to the embedding
    # (untied: 1.18B and 2.2B), unlike Base and Large, whose digits need it untied.
    "2b": CoCaConfig(
        image=ImageConfig(width=1408, layers=40, heads=16, mlp=6144),
        text=TextConfig(
            width=1408,
            unimodal_layers=18,
            multimodal_layers=18,
            heads=16,
            mlp=5632,
            tie_embeddings=True,
        ),
        pooler=PoolerConfig(heads=16),
    ),
    # The embedded default: learns `shapes` on two CPU cores in minutes.
    "mini": CoCaConfig(
        image=ImageConfig(size=32, patch=8, width=128, layers=3, heads=2, mlp=256),
        text=TextConfig(
            vocab_size=400,
            length=28,
            width=128,
            unimodal_layers=2,
            multimodal_layers=2,
            heads=2,
            mlp=256,
        ),
        pooler=PoolerConfig(caption_queries=16, heads=2),
        scan_unroll=3,
    ),
    # For tests: every part present, nothing larger than needed, all widths divisible by 8.
    "tiny": CoCaConfig(
        image=ImageConfig(size=16, patch=8, width=32, layers=2, heads=4, mlp=64),
        text=TextConfig(
            vocab_size=64,
            length=12,
            width=32,
            unimodal_layers=2,
            multimodal_layers=2,
            heads=4,
            mlp=64,
        ),
        pooler=PoolerConfig(caption_queries=4, heads=4),
    ),
}


DERIVED = ("contrastive", "captioning", "initial_temperature")  # from the `loss` section


def preset(name: str) -> dict:
    """The named model as a nested dictionary, to be put into a configuration and changed there.

    Raises:
      UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"model preset {name!r} does not exist; there are {', '.join(PRESETS)}")
    fields = dataclasses.asdict(PRESETS[name])
    return {key: value for key, value in fields.items() if key not in DERIVED}
