"""Named models: the paper's three (arXiv 2205.01917, table 1), OpenCLIP's two, and small ones."""

import dataclasses

from coca_jax.errors import UserError
from coca_jax.fields import values_of
from coca_jax.models.config import CoCaConfig, ImageConfig, PoolerConfig, TextConfig

# OpenAI's, which OpenCLIP's models were trained with.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def open_clip(image: ImageConfig, text: TextConfig, **options) -> CoCaConfig:
    """OpenCLIP's CoCa: its settings of the parts, at the given sizes.

    Args:
      image: sizes of the image encoder.
      text: sizes of the decoder.
      **options: further fields of the `CoCaConfig`.
    """
    settings = {"class_token": True, "patch_bias": False, "pre_norm": True}
    image = dataclasses.replace(image, mean=CLIP_MEAN, std=CLIP_STD, **settings)
    text = dataclasses.replace(text, interleaved=True)
    return CoCaConfig(image=image, text=text, **options)


def _open_clip_text(width: int, num_heads: int) -> TextConfig:
    sizes = {"width": width, "num_heads": num_heads, "mlp_dim": 4 * width}
    return TextConfig(vocab_size=49_408, context_length=76, **sizes)


SHARED_POOLER = PoolerConfig(kind="shared", caption_queries=255, num_heads=8, query_norm=True)

PRESETS = {
    "base": CoCaConfig(),
    "large": CoCaConfig(
        image=ImageConfig(width=1024, num_layers=24, num_heads=16, mlp_dim=4096),
        text=TextConfig(width=1024, num_heads=16, mlp_dim=4096),
        pooler=PoolerConfig(num_heads=16),
    ),
    # The table's 1.1B decoder and 2.1B total only come out with a softmax tied to the embedding
    # (untied: 1.18B and 2.2B), unlike Base and Large, whose digits need it untied.
    "2b": CoCaConfig(
        image=ImageConfig(width=1408, num_layers=40, num_heads=16, mlp_dim=6144),
        text=TextConfig(
            width=1408,
            unimodal_layers=18,
            multimodal_layers=18,
            num_heads=16,
            mlp_dim=5632,
            tie_embeddings=True,
        ),
        pooler=PoolerConfig(num_heads=16),
    ),
    "open_clip_vit_b_32": open_clip(
        ImageConfig(size=224, patch=32),
        _open_clip_text(width=512, num_heads=8),
        pooler=SHARED_POOLER,
        embed_dim=512,
    ),
    "open_clip_vit_l_14": open_clip(
        ImageConfig(size=224, patch=14, width=1024, num_layers=24, num_heads=16, mlp_dim=4096),
        _open_clip_text(width=768, num_heads=12),
        pooler=SHARED_POOLER,
        embed_dim=768,
    ),
    # The default: learns `shapes` on two CPU cores in minutes.
    "mini": CoCaConfig(
        image=ImageConfig(size=32, patch=8, width=128, num_layers=3, num_heads=2, mlp_dim=256),
        text=TextConfig(
            vocab_size=400,
            context_length=28,
            width=128,
            unimodal_layers=2,
            multimodal_layers=2,
            num_heads=2,
            mlp_dim=256,
        ),
        pooler=PoolerConfig(caption_queries=16, num_heads=2),
        scan_unroll=3,
    ),
    # For tests: every part present, nothing larger than needed, all widths divisible by 8.
    "tiny": CoCaConfig(
        image=ImageConfig(size=16, patch=8, width=32, num_layers=2, num_heads=4, mlp_dim=64),
        text=TextConfig(
            vocab_size=64,
            context_length=12,
            width=32,
            unimodal_layers=2,
            multimodal_layers=2,
            num_heads=4,
            mlp_dim=64,
        ),
        pooler=PoolerConfig(caption_queries=4, num_heads=4),
    ),
}


def preset(name: str) -> dict:
    """The named model as the `model` section of a configuration, a nested dictionary.

    Raises:
      UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"model preset {name!r} does not exist; there are {', '.join(PRESETS)}")
    return as_section(PRESETS[name])


def as_section(model: CoCaConfig) -> dict:
    """The model as a section of a configuration: its keys alone, computed as suits the devices."""
    return values_of(dataclasses.replace(model, dtype="auto", attention="auto"))
