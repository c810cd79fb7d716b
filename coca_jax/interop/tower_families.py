"""The names that other projects give the tensors of their image and text encoders."""

import dataclasses
from collections.abc import Iterator

from coca_jax.interop.rows import OPEN_CLIP, Layer, Row, block, norm
from coca_jax.models import CoCaConfig

IMAGE, TEXT = "image_encoder", "decoder"  # where a tower's parameters are, in ours
CLASS_TOKEN = "image_encoder/class_token"
POSITIONS = ("image_encoder/positions", "decoder/positions")
TIMM = Layer(
    ("norm1", "norm2"),
    (("attn.qkv.weight", "attn.qkv.bias"),),
    "attn.proj",
    ("mlp.fc1", "mlp.fc2"),
)
TRANSFORMERS = Layer(
    ("layer_norm1", "layer_norm2"),
    tuple((f"self_attn.{letter}_proj.weight", f"self_attn.{letter}_proj.bias") for letter in "qkv"),
    "self_attn.out_proj",
    ("mlp.fc1", "mlp.fc2"),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """The names of a tower in one project."""

    title: str
    tower: str  # IMAGE or TEXT
    stack: str  # of layers
    layer: Layer
    patches: str = ""  # the projection of patches
    norms: tuple[tuple[str, str], ...] = ()  # theirs, ours
    tables: tuple[tuple[str, str, str], ...] = ()  # theirs, ours, form

    def rows(self, config: CoCaConfig) -> Iterator[Row]:
        """The table of a tower with as many layers as the model's."""
        is_image = self.tower == IMAGE
        layers = config.image.num_layers if is_image else config.text.unimodal_layers
        ours = f"{self.tower}/{'transformer' if is_image else 'unimodal'}/layers"
        yield from block(self.stack, ours, "self_attention", "mlp", layers, self.layer)
        if self.patches:
            path = f"{IMAGE}/patch_embedding"
            yield Row(f"{self.patches}.weight", (f"{path}/kernel",), "patches")
            yield Row(f"{self.patches}.bias", (f"{path}/bias",))
        for theirs, path in self.norms:
            yield from norm(theirs, path)
        for theirs, path, form in self.tables:
            yield Row(theirs, (path,), form)


def _image(title: str, prefix: str, stack: str, layer: Layer, patches: str, *names: str) -> Family:
    """An image tower, by its names of: the norms before and after, the class token, positions."""
    before, after, token, positions = (f"{prefix}{name}" for name in names)
    return Family(
        title,
        IMAGE,
        f"{prefix}{stack}",
        layer,
        f"{prefix}{patches}",
        ((before, f"{IMAGE}/pre_norm"), (after, f"{IMAGE}/norm")),
        ((token, CLASS_TOKEN, "vector"), (positions, POSITIONS[0], "rows")),
    )


def _text(title: str, stack: str, layer: Layer, *names: str) -> Family:
    """A text tower, by its names of: the embedding, positions, the norm after, the projection."""
    embedding, positions, after, projection = names
    form = "matrix" if projection.endswith(".weight") else "same"
    return Family(
        title,
        TEXT,
        stack,
        layer,
        norms=((after, f"{TEXT}/cls_norm"),),
        tables=(
            (embedding, f"{TEXT}/embedding", "same"),
            (positions, POSITIONS[1], "rows"),
            (projection, "text_projection", form),
        ),
    )


FAMILIES = (
    _image(
        *("OpenCLIP", "visual.", "transformer.resblocks", OPEN_CLIP, "conv1"),
        *("ln_pre", "ln_post", "class_embedding", "positional_embedding"),
    ),
    _image(
        *("timm", "", "blocks", TIMM, "patch_embed.proj"),
        *("norm_pre", "norm", "cls_token", "pos_embed"),
    ),
    _image(
        *("transformers", "vision_model.", "encoder.layers", TRANSFORMERS),
        *("embeddings.patch_embedding", "pre_layrnorm", "post_layernorm"),
        *("embeddings.class_embedding", "embeddings.position_embedding.weight"),
    ),
    _text(
        *("OpenCLIP", "transformer.resblocks", OPEN_CLIP),
        *("token_embedding.weight", "positional_embedding", "ln_final", "text_projection"),
    ),
    _text(
        *("transformers", "text_model.encoder.layers", TRANSFORMERS),
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        *("text_model.final_layer_norm", "text_projection.weight"),
    ),
)
