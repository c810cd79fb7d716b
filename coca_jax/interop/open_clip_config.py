"""OpenCLIP's JSON configurations of a CoCa, in terms of ours."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from coca_jax.errors import UserError
from coca_jax.io.stored import is_number
from coca_jax.models import CoCaConfig, ImageConfig, PoolerConfig, TextConfig
from coca_jax.models.presets import CLIP_MEAN, CLIP_STD, open_clip

# What ours always is, by section of an OpenCLIP configuration ("": all of it); {}: must be absent.
TOWER = {
    **{"ls_init_value": {}, "norm_kwargs": {}, "act_kwargs": {}, "block_type": "default"},
    **{"qk_norm": False, "scaled_cosine_attn": False, "scale_heads": False},
    **{"scale_attn_inner": False, "scale_attn": False, "scale_fc": False},
}
SUPPORTED = {
    "": {"quick_gelu": False},
    "vision_cfg": TOWER
    | {"attentional_pool": True, "pool_type": "tok", "no_ln_pre": False}
    | {"final_ln_after_pool": False, "pos_embed_type": "learnable", "timm_model_name": {}},
    "text_cfg": TOWER
    | {"embed_cls": True, "pad_id": 0, "no_causal_mask": False, "proj_type": "linear"}
    | {"proj_bias": False, "hf_model_name": {}},
    "multimodal_cfg": TOWER,
    "preprocess_cfg": {"mode": "RGB"},
}


def model_config(settings: Any) -> CoCaConfig:
    """The model that an OpenCLIP configuration describes.

    Args:
      settings: as one of its `model_configs`, or as an `open_clip_config.json`, which has that
        under `model_cfg`, and how images are resized and normalized under `preprocess_cfg`.

    Raises:
      UserError: it is not a CoCa, has settings that ours lacks, or a value is not a number.
    """
    sections = _sections(settings)
    if lines := list(_unsupported(sections)):
        raise UserError("these settings are not supported:\n  " + "\n  ".join(lines))
    vision, text, multimodal = (sections[n] for n in ("vision_cfg", "text_cfg", "multimodal_cfg"))
    embedding = sections[""].whole("embed_dim")
    _require_agreement(text, multimodal, embedding)
    if text.positive("mlp_ratio", 4.0) != 4:  # OpenCLIP's multimodal layers always have 4
        raise UserError(f"text_cfg.mlp_ratio={text['mlp_ratio']} should be 4, as multimodal_cfg's")
    decoder = TextConfig(
        vocab_size=text.whole("vocab_size"),
        context_length=text.whole("context_length"),
        width=text.whole("width"),
        unimodal_layers=text.whole("layers"),
        multimodal_layers=multimodal.whole("layers"),
        num_heads=text.whole("heads"),
        mlp_dim=4 * text.whole("width"),
    )
    pooler = PoolerConfig(
        kind="shared",
        caption_queries=vision.whole("attn_pooler_queries", 256) - 1,
        num_heads=vision.whole("attn_pooler_heads", 8),
        query_norm=True,
    )
    model = open_clip(_image(vision), decoder, pooler=pooler, embed_dim=embedding)
    pixels = preprocessing(settings)
    return dataclasses.replace(model, image=dataclasses.replace(model.image, **pixels))


def _require_agreement(text: "Section", multimodal: "Section", embedding: int) -> None:
    """Raises a UserError that names what should be equal and is not."""
    names = ("width", "heads", "context_length")
    pairs = [
        (name, text.whole(name), "multimodal_cfg." + name, multimodal.whole(name)) for name in names
    ]
    pairs.append(("width", text.whole("width"), "embed_dim", embedding))
    if wrong := [f"text_cfg.{a}={x} and {b}={y}" for a, x, b, y in pairs if x != y]:
        raise UserError(f"{'; '.join(wrong)} should agree")


def preprocessing(settings: Any) -> dict[str, Any]:
    """How a model's images are resized and normalized: fields of an `ImageConfig`.

    Args:
      settings: as of `model_config`, of any model.

    Raises:
      UserError: a value is none that OpenCLIP has.
    """
    given = settings.get("preprocess_cfg") if isinstance(settings, Mapping) else None
    if isinstance(given, Mapping):
        given = {key: value for key, value in given.items() if value is not None}
    section = Section("preprocess_cfg", given or {})
    interpolation = section.choice("interpolation", "bicubic", "bilinear", "random")
    return {
        "mean": section.channels("mean", CLIP_MEAN),
        "std": section.channels("std", CLIP_STD),
        "resize_mode": section.choice("resize_mode", "shortest", "longest", "squash"),
        # Only training draws the filter; OpenCLIP evaluates by the first.
        "interpolation": "bicubic" if interpolation == "random" else interpolation,
        "fill_color": section.level("fill_color", 0),
    }


def preprocess_settings(image: ImageConfig) -> dict[str, Any]:
    """OpenCLIP's `preprocess_cfg` of a model: what `preprocessing` reads."""
    return {
        "mean": list(image.mean),
        "std": list(image.std),
        "interpolation": image.interpolation,
        "resize_mode": image.resize_mode,
        "fill_color": image.fill_color,
    }


def other_model(settings: Any) -> str:
    """The kind of model that an OpenCLIP configuration describes; "" for a CoCa or no model."""
    model = settings.get("model_cfg", settings) if isinstance(settings, Mapping) else {}
    if not isinstance(model, Mapping) or "multimodal_cfg" in model:
        return ""
    vision, text = (model.get(name) for name in ("vision_cfg", "text_cfg"))
    if not isinstance(vision, Mapping) or not isinstance(text, Mapping):
        return ""
    image = str(vision.get("timm_model_name") or "a ViT")
    if isinstance(vision.get("layers"), list | tuple):
        image = "a ResNet"
    is_siglip = "init_logit_bias" in model or "siglip" in image.lower()
    words = text.get("hf_model_name") or "a transformer"
    return f"a {'SigLIP' if is_siglip else 'CLIP'} (images: {image}, texts: {words})"


def settings(config: CoCaConfig) -> dict[str, Any]:
    """The OpenCLIP configuration of a model, without that of its pixels."""
    image, text, pooler = config.image, config.text, config.pooler
    half = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
    }
    half |= {"heads": text.num_heads, "mlp_ratio": _ratio(text.mlp_dim, text.width)}
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": image.size if not image.grid_width else list(image.pixels),
            "patch_size": image.patch,
            "width": image.width,
            "layers": image.num_layers,
            "head_width": image.width // image.num_heads,
            "mlp_ratio": _ratio(image.mlp_dim, image.width),
            "attentional_pool": True,
            "attn_pooler_queries": pooler.caption_queries + 1,
            "attn_pooler_heads": pooler.num_heads,
            "output_tokens": True,
        },
        "text_cfg": half
        | {"layers": text.unimodal_layers, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": half | {"layers": text.multimodal_layers},
        "custom_text": True,
    }


def _ratio(mlp_dim: int, width: int) -> float:
    """The ratio from which `int(width * ratio)`, OpenCLIP's rule, gives an MLP's width back."""
    ratio = mlp_dim / width
    while int(width * ratio) < mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


class Section(dict):
    """One section of a configuration, whose values are checked as they are read."""

    def __init__(self, name: str, values: Any):
        if not isinstance(values, Mapping):
            raise UserError(f"{name or 'the configuration'} should hold settings, not {values!r}")
        super().__init__(values)
        self.name = name

    def read(self, key: str, default: Any = None) -> Any:
        """A value, or its default."""
        value = self.get(key, default)
        if value is None:
            where = f" in {self.name}" if self.name else ""
            raise UserError(f"the OpenCLIP configuration lacks {key!r}{where}; is it a CoCa's?")
        return value

    def wrong(self, key: str, what: str) -> UserError:
        """The error of a value that is something else."""
        prefix = f"{self.name}." if self.name else ""
        return UserError(f"{prefix}{key}={self[key]!r} should be {what}")

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        if not _is_whole(value := self.read(key, default)):
            raise self.wrong(key, "a positive whole number")
        return value

    def positive(self, key: str, default: float) -> float:
        """A positive number."""
        if not (is_number(value := self.read(key, default)) and value > 0):
            raise self.wrong(key, "a positive number")
        return float(value)

    def pair(self, key: str) -> tuple[int, int]:
        """Two positive whole numbers, or one for both."""
        value = self.read(key)
        pair = value if isinstance(value, list | tuple) else [value, value]
        if len(pair) != 2 or not all(map(_is_whole, pair)):
            raise self.wrong(key, "a positive whole number, or height and width")
        return tuple(pair)

    def word(self, key: str) -> str | None:
        """A word, or None."""
        value = self.get(key)
        if not isinstance(value, str | None):
            raise self.wrong(key, "a word")
        return value

    def switch(self, key: str, default: bool) -> bool:
        """Whether something is on."""
        value = self.read(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def choice(self, key: str, default: str, *others: str) -> str:
        """One of several words."""
        value = self.read(key, default)
        if value not in (default, *others):
            raise self.wrong(key, f"one of {', '.join((default, *others))}")
        return value

    def level(self, key: str, default: int) -> int:
        """A level of gray, or three equal ones."""
        value = self.read(key, default)
        if isinstance(value, list | tuple) and len(value) == 3 and len(set(map(str, value))) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 256:
            raise self.wrong(key, "a level of gray from 0 to 255")
        return value

    def channels(self, key: str, default: tuple[float, ...]) -> tuple[float, float, float]:
        """A number for each of the three colors, or one for all."""
        value = self.read(key, default)
        value = [value] * 3 if is_number(value) else value
        if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(is_number, value)):
            raise self.wrong(key, "three numbers, or one")
        return tuple(map(float, value))


def _sections(settings: Any) -> dict[str, Section]:
    """The sections of a configuration by name; "": what is in none."""
    whole = Section("", settings)
    model = Section("model_cfg", whole["model_cfg"]) if "model_cfg" in whole else whole
    if kind := other_model(whole):
        raise UserError(
            f"it describes {kind} and no CoCa: it lacks 'multimodal_cfg'. Its towers can begin the "
            "training of a CoCa: config.init.path"
        )
    result = {"": Section("", model)}
    for name in SUPPORTED:
        if name == "preprocess_cfg":
            result[name] = Section(name, whole.get(name) or {})
        elif name:
            result[name] = Section(name, result[""].read(name))
    return result


def _image(vision: Section) -> ImageConfig:
    height, width = vision.pair("image_size")
    patch, channels = vision.whole("patch_size"), vision.whole("width")
    if width % patch:
        raise vision.wrong("image_size", f"a multiple of patch_size={patch}")
    return ImageConfig(
        size=height,
        patch=patch,
        grid_width=0 if width == height else width // patch,
        width=channels,
        num_layers=vision.whole("layers"),
        num_heads=channels // vision.whole("head_width", 64) or 1,
        mlp_dim=int(channels * vision.positive("mlp_ratio", 4.0)),
    )


def _unsupported(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Settings of OpenCLIP's under which equal weights would compute something else."""
    for section, supported in SUPPORTED.items():
        for key, value in supported.items():
            if (given := sections[section].get(key)) not in (None, value):
                yield f"{section or 'model'}: {key}={given!r} should be {value!r}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
