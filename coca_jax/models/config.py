"""What describes a CoCa model: one frozen dataclass per part, each key with its meaning."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The image encoder: a pre-LayerNorm ViT without a class token."""

    size: int = 288  # pixels, height and width
    patch: int = 18  # pixels; (size / patch)^2 tokens
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072  # hidden units
    patch_dropout: float = 0.0  # share of patches left out in training (FLIP, arXiv 2212.00794)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels in [0, 1], per channel
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def tokens(self) -> int:
        """Number of patches of one image."""
        return (self.size // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder: a causal text half, then a causal half that also attends to the image."""

    vocab_size: int = 64_000
    length: int = 64  # most tokens of a text, begin and end included, [CLS] not
    pad_id: int = 0
    width: int = 768
    unimodal_layers: int = 12
    multimodal_layers: int = 12
    heads: int = 12
    mlp: int = 3072
    tie_embeddings: bool = False  # True: the softmax reads the token embedding


@dataclasses.dataclass(frozen=True)
class PoolerConfig:
    """The attentional poolers between image encoder and decoder."""

    kind: str = "cascade"  # or "parallel": the contrastive pooler reads the encoder, too
    caption_queries: int = 256  # 0: the decoder attends to the whole encoded image
    heads: int = 12


@dataclasses.dataclass(frozen=True)
class CoCaConfig:
    """A whole model. `contrastive` and `captioning` follow from the loss weights, not by hand."""

    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    pooler: PoolerConfig = PoolerConfig()
    dropout: float = 0.0  # after each attention and MLP
    stochastic_depth: float = 0.0  # rate of the last layer; grows linearly from 0 at the first
    dtype: str = "auto"  # of activations: auto (bfloat16 on accelerators), float32, bfloat16
    remat: str = "none"  # none, full, or a policy's name in jax.checkpoint_policies
    scan_unroll: int = 1  # layers of the scan that are compiled side by side
    contrastive: str = "softmax"  # the loss that is trained: softmax, sigmoid, or none
    captioning: bool = True
    initial_temperature: float = 0.07  # of the contrastive softmax (sigmoid: 0.1 in SigLIP)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **derived: Any) -> "CoCaConfig":
        """Builds the dataclasses from nested dictionaries; `derived` overrides the top level."""
        parts = {"image": ImageConfig, "text": TextConfig, "pooler": PoolerConfig}
        fields = {k: parts[k](**_frozen(v)) if k in parts else v for k, v in values.items()}
        return cls(**(fields | derived))


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    """Lists to tuples, so that configurations read back from JSON stay hashable."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
