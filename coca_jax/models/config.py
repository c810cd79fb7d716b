"""The configuration of a CoCa model: a frozen dataclass for each part, each field with its meaning.

They are the `model` section of a configuration, too. Fields that are not made by `field` follow
from other sections and are not keys.
"""

import dataclasses
from typing import Any

import jax

from coca_jax.fields import choice, field, flag, integer, number, row, several
from coca_jax.patches import PatchBudget, Target

PIXELS = integer(1, 2**16)
WIDTH, LAYERS, HEADS = integer(1, 2**20), integer(1, 10_000), integer(1, 2**16)
SHARE = number(0, 1, below=True)
POLICIES = [name for name in dir(jax.checkpoint_policies) if name.endswith("saveable")]
REMAT = ("none", "full", "offload", *POLICIES)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The image encoder: a pre-LayerNorm ViT."""

    size: int = field(
        288,
        "Height of an image in pixels, and its width unless `grid_width` is set. With "
        "`sequence_lengths`: of the image whose patches have the learned positions.",
        PIXELS,
    )
    patch: int = field(18, "Height and width of a patch in pixels.", PIXELS)
    grid_width: int = field(0, "Patches across an image; 0: as many as down.", integer(0, 2**16))
    sequence_lengths: tuple[int, ...] = field(
        (),
        "Patches of an image at most; the image keeps its aspect ratio (NaFlex, arXiv 2502.14786). "
        "Of several lengths each step takes one, at random but equally often, with as many times "
        "`train.batch_size` images as fit into the longest; evaluations take the longest. Empty: "
        "all images have one size.",
        several(integer(1, 2**16)),
    )
    width: int = field(768, "Size of a token's activations.", WIDTH)
    num_layers: int = field(12, "Transformer layers.", LAYERS)
    num_heads: int = field(12, "Attention heads; they divide `width`.", HEADS)
    mlp_dim: int = field(3072, "Hidden units of each MLP.", WIDTH)
    class_token: bool = field(False, "Put a learned token in front of the patches.", flag())
    patch_bias: bool = field(True, "Give the projection of patches a bias.", flag())
    pre_norm: bool = field(False, "Add a LayerNorm before the first layer.", flag())
    patch_dropout: float = field(
        0.0, "Share of the patches left out in training (FLIP, arXiv 2212.00794).", SHARE
    )
    remat: str = field(
        "",
        "`model.remat` for this encoder; empty: the model's.",
        choice("", *REMAT),
        resumable=True,
    )
    mean: tuple[float, float, float] = field(
        (0.5, 0.5, 0.5),
        "Mean of pixels in [0, 1], by channel, that is subtracted.",
        row(*[number(-1000, 1000)] * 3, wanted="three numbers, one a channel"),
    )
    std: tuple[float, float, float] = field(
        (0.5, 0.5, 0.5),
        "Standard deviation of pixels in [0, 1], by channel, that is divided by.",
        row(*[number(1e-6, 1000)] * 3, wanted="three numbers from 1e-06 to 1000, one a channel"),
    )
    resize_mode: str = field(
        "shortest",
        "How an image gets its size where it is not cropped at random. shortest: it covers the "
        "size, and the center is cut out; longest: it fits into the size, amid `fill_color`; "
        "squash: it is stretched to the size.",
        choice("shortest", "longest", "squash"),
    )
    interpolation: str = field("bicubic", "Filter of that resizing.", choice("bicubic", "bilinear"))
    fill_color: int = field(0, "Level of gray around an image of `longest`.", integer(0, 255))

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
    def target(self) -> Target:
        """What images are resized to: one size, or at most the longest sequence of patches."""
        if self.sequence_lengths:
            return PatchBudget(self.patch, max(self.sequence_lengths))
        return self.pixels

    @property
    def patches(self) -> int:
        """Number of patches of an image, padding included; with several lengths, the most."""
        return max(self.sequence_lengths, default=self.grid[0] * self.grid[1])

    @property
    def tokens(self) -> int:
        """Number of tokens of an image: its patches and, if there is one, the class token."""
        return self.patches + self.class_token

    @property
    def positions(self) -> int:
        """Number of learned positions: those of `grid` and, if there is one, the class token's."""
        return self.grid[0] * self.grid[1] + self.class_token


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder: a causal text half, then a causal half that also attends to the image."""

    vocab_size: int = field(64_000, "Number of token ids.", integer(1))
    context_length: int = field(
        64, "Tokens of a text at most, begin and end included, [CLS] not.", integer(2, 2**16)
    )
    pad_id: int = field(0, "Token id of padding.", integer())
    width: int = field(768, "Size of a token's activations.", WIDTH)
    unimodal_layers: int = field(12, "Layers of the first half, which sees text alone.", LAYERS)
    multimodal_layers: int = field(12, "Layers of the second half, which sees images.", LAYERS)
    num_heads: int = field(12, "Attention heads; they divide `width`.", HEADS)
    mlp_dim: int = field(3072, "Hidden units of each MLP.", WIDTH)
    remat: str = field(
        "", "`model.remat` for the decoder; empty: the model's.", choice("", *REMAT), resumable=True
    )
    cross_attention_every: int = field(
        1,
        "Layers of the second half of which the first has cross-attention; 1: all have it. It "
        "divides `multimodal_layers`.",
        LAYERS,
    )
    interleaved: bool = field(
        False, "Give cross-attention layers of its own, each with its own MLP.", flag()
    )
    tie_embeddings: bool = field(
        False, "Compute the logits with the token embedding, without an `lm_head`.", flag()
    )
    shifted_cls_mask: bool = field(
        False,
        "Let [CLS] attend as in OpenCLIP's released weights: one position off, so that it sees "
        "the first padding and not itself. Only for these weights; see `causal_mask_with_cls`.",
        flag(),
    )


@dataclasses.dataclass(frozen=True)
class PoolerConfig:
    """The attentional poolers between image encoder and decoder."""

    kind: str = field(
        "cascade",
        "What the contrastive pooler reads. cascade: the caption pooler's output; parallel: the "
        "image encoder's; shared: the contrastive query is the caption pooler's first one.",
        choice("cascade", "parallel", "shared"),
    )
    caption_queries: int = field(
        256, "Queries of the caption pooler; 0: the decoder sees all tokens.", integer(0, 2**16)
    )
    num_heads: int = field(12, "Attention heads; they divide the decoder's width.", HEADS)
    query_norm: bool = field(False, "Add a LayerNorm on the queries.", flag())


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A classifier on top of the model, for a task that comes after pretraining."""

    classes: int
    # image: the encoder's tokens of all images together; text: the decoder's outputs for a text,
    # about each image on its own.
    input: str = "image"
    num_images: int = 1  # of an example: the frames of a clip, or both of a pair


@dataclasses.dataclass(frozen=True)
class CoCaConfig:
    """A whole model: its parts, and how it is computed."""

    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    pooler: PoolerConfig = PoolerConfig()
    embed_dim: int = field(
        0,
        "Size of both embeddings, each by a projection; 0: the decoder's width, unprojected.",
        integer(0, 2**20),
    )
    dropout: float = field(0.0, "Rate of dropout after each attention and MLP.", SHARE)
    stochastic_depth: float = field(
        0.0, "Rate at which the last layer is skipped; grows from 0 at the first layer.", SHARE
    )
    dtype: str = field(
        "float32",
        "Type of activations. auto: bfloat16, but float32 on CPUs.",
        choice("auto", "float32", "bfloat16"),
    )
    attention: str = field(
        "xla",
        "Implementation of attention. cudnn: fused, on NVIDIA GPUs from Ampere on; pallas: fused, "
        "on TPUs; auto: the one that runs there, else xla.",
        choice("auto", "xla", "cudnn", "pallas"),
        resumable=True,
    )
    remat: str = field(
        "none",
        "What the backward pass computes again: none, full, a policy in `jax.checkpoint_policies`, "
        "or offload (matmuls are kept in the host's memory).",
        choice(*REMAT),
        resumable=True,
    )
    scan_unroll: int = field(
        0,
        "Layers of the scan over layers that are compiled side by side; 0: all on NVIDIA "
        "GPUs unless remat is full, else 1. More take longer to compile, and move less memory.",
        integer(0, 10_000),
        resumable=True,
    )
    # These follow from other sections and from the use of the model.
    stacked: bool = True  # layers in one array a parameter; False: apart, see `Transformer`
    contrastive: str = "softmax"  # the loss that is trained: softmax, sigmoid, or none
    captioning: bool = True
    initial_temperature: float = 0.07  # of the contrastive softmax (sigmoid: 0.1 in SigLIP)
    head: HeadConfig | None = None
    matching_block: int = 0  # pairs among which hard negatives are drawn; 0: no matching head
    negatives: bool = False  # whether the data give wrong captions, whose embeddings are compared

    @property
    def has_cls(self) -> bool:
        """Whether texts have a [CLS], of which, and of images, there are embeddings."""
        return self.contrastive != "none"

    @property
    def multimodal(self) -> bool:
        """Whether the decoder's second half is there: to caption, or for a head that reads it."""
        reads_text = self.head is not None and self.head.input == "text"
        return self.captioning or self.matching_block > 0 or reads_text

    @property
    def reads_text(self) -> bool:
        """Whether the decoder is computed: all but a head that reads the image needs it."""
        return self.has_cls or self.multimodal

    @property
    def num_images(self) -> int:
        """Number of images of an example, for one text."""
        return 1 if self.head is None else self.head.num_images

    @property
    def wrong_pairs(self) -> int:
        """Pairs of an example that a matching head finds wrong: two hard ones, and the data's."""
        return (2 + self.negatives) * (self.matching_block > 0)

    @property
    def pixels(self) -> tuple[int, ...]:
        """Shape of an example's image, [h, w, 3], or of its images, [num_images, h, w, 3]."""
        return (*[self.num_images] * (self.num_images > 1), *self.image.pixels, 3)

    def with_sequence_length(self, length: int | None) -> "CoCaConfig":
        """The model as it is for images of at most this many patches; None: of one size."""
        if length is None:
            return self
        return dataclasses.replace(
            self, image=dataclasses.replace(self.image, sequence_lengths=(length,))
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any], **derived: Any) -> "CoCaConfig":
        """Builds the dataclasses from nested dictionaries; `derived` overrides the top level."""
        parts = {"image": ImageConfig, "text": TextConfig, "pooler": PoolerConfig}
        fields = {k: parts[k](**_frozen(v)) if k in parts else v for k, v in values.items()}
        return cls(**(fields | derived))


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    """Lists to tuples, so that configurations read back from JSON stay hashable."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
