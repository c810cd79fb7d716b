"""What a configuration says of a model's towers, and their weights do not."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from coca_jax.errors import UserError
from coca_jax.interop.hub import OTHER_SETTINGS, SETTINGS
from coca_jax.interop.open_clip_config import preprocessing
from coca_jax.interop.tower_families import IMAGE, TEXT


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a configuration says of a model's towers, and their weights do not."""

    heads: Mapping[str, int]  # by tower; of none where it is not said
    causal: bool = True  # whether a text's tokens attend to earlier ones only
    activations: Mapping[str, str] = dataclasses.field(default_factory=dict)  # other than ours
    pixels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] | None = None  # height and width of images, if they are not square


def read_json(path: epath.Path) -> Mapping[str, Any]:
    """The content of a JSON file; nothing if it is not there or is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, Mapping) else {}


def read_facts(folder: epath.Path) -> Facts:
    """The facts in the configuration of a folder, OpenCLIP's or that of `transformers`.

    Raises:
      UserError: it is not a configuration of a model.
    """
    try:
        if settings := read_json(folder / SETTINGS):
            return _open_clip_facts(settings)
        return _transformers_facts(*(read_json(folder / name) for name in OTHER_SETTINGS))
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, UserError) as error:
        raise UserError(f"the configuration in {folder} cannot be read: {error}") from error


def _open_clip_facts(settings: Mapping[str, Any]) -> Facts:
    model = settings.get("model_cfg", settings)
    vision, text = model["vision_cfg"], model["text_cfg"]
    heads = {}
    if "timm_model_name" not in vision:
        heads[IMAGE] = vision.get("width", 768) // vision.get("head_width", 64)
    if "hf_model_name" not in text:
        heads[TEXT] = text.get("heads", 8)
    size = vision.get("image_size")
    return Facts(
        heads,
        causal=not text.get("no_causal_mask"),
        activations=dict.fromkeys((IMAGE, TEXT), "quick_gelu") if model.get("quick_gelu") else {},
        pixels=_pixels(settings.get("preprocess_cfg") or {}),
        size=tuple(map(int, size)) if isinstance(size, list) and len(size) == 2 else None,
    )


def _transformers_facts(settings: Mapping[str, Any], processor: Mapping[str, Any]) -> Facts:
    kind = settings.get("model_type")
    if not isinstance(kind, str) or not kind.startswith(("clip", "siglip")):
        return Facts({})
    parts = {
        IMAGE: settings.get("vision_config") or settings,
        TEXT: settings.get("text_config") or {},
    }
    default = {IMAGE: 12, TEXT: 8 if kind.startswith("clip") else 12}
    heads = {
        tower: part.get("num_attention_heads", default[tower]) for tower, part in parts.items()
    }
    usual = "quick_gelu" if kind.startswith("clip") else "gelu_pytorch_tanh"
    activations = {tower: part.get("hidden_act", usual) for tower, part in parts.items()}
    pixels = {name: processor.get(f"image_{name}") for name in ("mean", "std")}
    return Facts(
        heads,
        causal=kind.startswith("clip"),
        activations={tower: name for tower, name in activations.items() if name != "gelu"},
        pixels=_pixels(pixels) if any(pixels.values()) else {},
    )


def _pixels(given: Mapping[str, Any]) -> dict[str, Any]:
    """The mean and standard deviation of the pixels; towers do not depend on how one resizes."""
    read = preprocessing({"preprocess_cfg": {name: given.get(name) for name in ("mean", "std")}})
    return {name: read[name] for name in ("mean", "std")}
