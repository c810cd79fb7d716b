"""What describes a CoCa model: one frozen dataclass per part, each key with its meaning."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The image encoder: a pre-LayerNorm ViT."""

    size: int = 288  # pixels of the height, and of the width unless `grid_width` says otherwise
    patch: int = 18  # pixels, height and width of a patch
    grid_width: int = 0  # patches across an image; 0: as many as down
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072  # hidden units
    class_token: bool = False  # a learned token in front of the patches
    patch_bias: bool = True  # of the projection of patches
    pre_norm: bool = False  # a LayerNorm before the first layer, too
    patch_dropout: float = 0.0  # share of patches left out in training (FLIP, arXiv 2212.00794)
    remat: str = ""  # of this encoder; empty: the model's
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels in [0, 1], per channel
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows = self.size // self.patch
        return rows, self.grid_width or rows

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.size, self.grid[1] * self.patch if self.grid_width else self.size

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Number of tokens of an image: its patches and, if there is one, the class token."""
        return self.patches + self.class_token


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder: a causal text half, then a causal half that also attends to the image."""

    vocab_size: int = 64_000
    context_length: int = 64  # most tokens of a text, begin and end included, [CLS] not
    pad_id: int = 0
    width: int = 768
    unimodal_layers: int = 12
    multimodal_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    remat: str = ""  # of the decoder; empty: the model's
    interleaved: bool = False  # cross-attention in layers of their own, each with its own MLP
    tie_embeddings: bool = False  # True: the softmax reads the token embedding
    # [CLS] attends as in OpenCLIP's released weights: one place beside what was meant, so that it
    # sees the first padding and not itself. For them only; see `causal_mask_with_cls`.
    shifted_cls_mask: bool = False


@dataclasses.dataclass(frozen=True)
class PoolerConfig:
    """The attentional poolers between image encoder and decoder."""

    # cascade: the contrastive pooler reads the caption pooler's output; parallel: it reads the
    # encoder, too; shared: it is one more query, the first, of the caption pooler.
    kind: str = "cascade"
    caption_queries: int = 256  # 0: the decoder attends to the whole encoded image
    num_heads: int = 12
    query_norm: bool = False  # a LayerNorm on the queries


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A classifier beside the model, for a task that comes after pretraining."""

    classes: int
    # image: the encoder's tokens of all pictures together; text: the decoder's outputs for a text,
    # about each picture on its own.
    input: str = "image"
    num_images: int = 1  # pictures of an example: the frames of a clip, or both of a pair


@dataclasses.dataclass(frozen=True)
class CoCaConfig:
    """A whole model. What the fields from `stacked` on say follows from other settings."""

    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    pooler: PoolerConfig = PoolerConfig()
    embed_dim: int = 0  # size of both embeddings, by a projection each; 0: the text width, without
    dropout: float = 0.0  # after each attention and MLP
    stochastic_depth: float = 0.0  # rate of the last layer; grows linearly from 0 at the first
    # auto is what coca_jax/accelerators.py says for the devices that are here.
    dtype: str = "auto"  # of activations: auto, float32 or bfloat16
    attention: str = "auto"  # auto, xla, or cudnn: fused, on NVIDIA GPUs
    # What the backward pass computes again: none, full, a policy's name in
    # jax.checkpoint_policies, or offload: matrix products are kept in the host's memory.
    remat: str = "none"
    scan_unroll: int = 1  # layers of the scan that are compiled side by side
    stacked: bool = True  # layers in one array a parameter; False: apart, see `Transformer`
    contrastive: str = "softmax"  # the loss that is trained: softmax, sigmoid, or none
    captioning: bool = True
    initial_temperature: float = 0.07  # of the contrastive softmax (sigmoid: 0.1 in SigLIP)
    head: HeadConfig | None = None

    @property
    def multimodal(self) -> bool:
        """Whether the decoder's second half is there: to caption, or for a head that reads it."""
        return self.captioning or (self.head is not None and self.head.input == "text")

    @property
    def reads_text(self) -> bool:
        """Whether the decoder is computed: all but a head that reads the image needs it."""
        return self.contrastive != "none" or self.multimodal

    @property
    def num_images(self) -> int:
        """How many pictures an example has, for one text."""
        return 1 if self.head is None else self.head.num_images

    @property
    def pixels(self) -> tuple[int, ...]:
        """Shape of an example's picture, [h, w, 3], or of its pictures, with an axis for them."""
        return (*[self.num_images] * (self.num_images > 1), *self.image.pixels, 3)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **derived: Any) -> "CoCaConfig":
        """Builds the dataclasses from nested dictionaries; `derived` overrides the top level."""
        parts = {"image": ImageConfig, "text": TextConfig, "pooler": PoolerConfig}
        fields = {k: parts[k](**_frozen(v)) if k in parts else v for k, v in values.items()}
        return cls(**(fields | derived))


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    """Lists to tuples, so that configurations read back from JSON stay hashable."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
