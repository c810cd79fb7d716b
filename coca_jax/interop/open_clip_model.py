"""A CoCa as OpenCLIP keeps it: weights, with `open_clip_config.json` in the same folder."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from coca_jax.config import default_config, to_json
from coca_jax.config.checks import errors
from coca_jax.errors import UserError
from coca_jax.interop import hub, open_clip, open_clip_config
from coca_jax.interop.hub import SETTINGS
from coca_jax.interop.shards import ENDS, weight_files
from coca_jax.interop.weights import open_tensors
from coca_jax.io.messages import cause
from coca_jax.io.paths import as_path
from coca_jax.models import CoCaConfig
from coca_jax.models.presets import PRESETS, as_section

OWN = "coca_jax"  # of a configuration: what OpenCLIP's does not say; OpenCLIP ignores it
# The file in the folder of each kind of tokenizer; empty: it needs none.
TOKENIZERS = {"clip": "", "byte": "", "json": "tokenizer.json", "sentencepiece": hub.OWN_TOKENIZER}


@dataclasses.dataclass(frozen=True)
class OpenClipModel:
    """Weights in OpenCLIP's form, and what they are of."""

    path: epath.Path  # of the weights: a file, an index of shards, or a folder with one of them
    model: CoCaConfig
    tokenizer: str  # its kind
    tokenizer_file: epath.Path | None  # None: the kind needs none
    name: str  # as the user wrote it
    settings: bytes = b""  # the configuration that it was read from, for `identity`

    def config(self) -> ConfigDict:
        """A whole configuration around the model, with the losses that OpenCLIP trains.

        Raises:
          UserError: sizes of the model do not fit each other.
        """
        config = default_config()
        config.model = ConfigDict(as_section(self.model))
        config.loss.contrastive.reduction = "mean"
        config.data.tokenizer.kind = self.tokenizer
        if lines := errors(config):
            raise UserError("\n".join([f"{self.name} is not a model that can be built:", *lines]))
        return ConfigDict(to_json(config))

    def params(self, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """The parameters, float32.

        Args:
          report: is given a line if the files hold more than the weights.

        Raises:
          UserError: a file cannot be read, or the weights do not fit the configuration.
        """
        tensors = open_tensors(self.path, open_clip.expected_shapes(self.model), report)
        try:
            return open_clip.from_open_clip(tensors, self.model)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error

    def require_weights(self) -> None:
        """Checks names, shapes and types of the weights, of which only headers are read.

        Raises:
          UserError: a file cannot be read, or the weights do not fit the configuration.
        """
        shapes = open_clip.expected_shapes(self.model)
        try:
            open_clip.require_shapes(open_tensors(self.path, shapes), shapes)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error

    @functools.cached_property
    def identity(self) -> str:
        """A checksum of the files, which differs from that of other weights or settings."""
        digest = hashlib.sha256(self.settings + repr(self.model).encode())
        for file in weight_files(self.path)[0]:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()


def is_open_clip(path: epath.Path) -> bool:
    """Whether a path is a folder with OpenCLIP's configuration, or a file of weights in one."""
    if path.name.endswith(ENDS) and path.is_file():
        path = path.parent
    return (path / SETTINGS).is_file()


def open_model(
    source: str | os.PathLike, variant: str | None = None, shifted_cls_mask: bool | None = None
) -> OpenClipModel:
    """Opens a model's configuration; the weights are read by its `params`.

    Args:
      source: a file of weights, an index of shards, a folder with one of them, or
        `hf-hub:ORG/NAME[@REVISION]`.
      variant: the name of a preset, or a JSON file or folder with an OpenCLIP configuration; None:
        the configuration next to the weights.
      shifted_cls_mask: whether the weights were trained with OpenCLIP's [CLS] mask, as the
        released ones were; None: as the configuration says, else yes.

    Raises:
      UserError: there are no such weights, or no configuration of a CoCa.
    """
    name = os.fspath(source)
    path = as_path(hub.download(name) if hub.is_hub_name(name) else name)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    presets = [preset for preset in PRESETS if preset.startswith("open_clip")]
    if variant in presets:
        shifted = True if shifted_cls_mask is None else shifted_cls_mask
        model = _masked(PRESETS[variant], shifted)
        return OpenClipModel(path, model, "clip", None, name)
    if hub.is_hub_name(name) and not variant and not (path / SETTINGS).is_file():
        raise UserError(
            f"{name} has no {SETTINGS}: it is not a CoCa of OpenCLIP's{_other_type(path)}"
        )
    file = _settings_file(variant, path, presets)
    try:
        content = file.read_bytes()
        settings = json.loads(content)
        model = open_clip_config.model_config(settings)
        own = open_clip_config.Section(OWN, settings.get(OWN, {}))
        kind, tokenizer = _tokenizer(settings, own, file.parent)
        shifted = own.switch("shifted_cls_mask", True)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(f"{file} cannot be read: {cause(error)}") from error
    model = _masked(model, shifted if shifted_cls_mask is None else shifted_cls_mask)
    return OpenClipModel(path, model, kind, tokenizer, name, content)


def _masked(model: CoCaConfig, shifted: bool) -> CoCaConfig:
    text = dataclasses.replace(model.text, shifted_cls_mask=shifted)
    return dataclasses.replace(model, text=text)


def _settings_file(variant: str | None, source: epath.Path, presets: list[str]) -> epath.Path:
    """The JSON file with the configuration of a model."""
    path = as_path(variant) if variant else source if source.is_dir() else source.parent
    if path.is_dir():
        path = path / SETTINGS
    if path.is_file() or (path.suffix == ".json" and variant):
        return path
    if variant:
        raise UserError(
            f"variant {variant!r} is not known; there are {', '.join(presets)}, and JSON files of "
            f"OpenCLIP's model_configs or {SETTINGS}"
        )
    raise UserError(
        f"--from open_clip needs --variant, such as {presets[0]}: there is no {path}, which would "
        f"say what the weights are of{_other_type(path.parent)}"
    )


def _other_type(folder: epath.Path) -> str:
    """A phrase on the kind of model that a `config.json` of `transformers` or timm names."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
        kind = content.get("model_type") or content.get("architecture")
    except (OSError, ValueError, RecursionError, AttributeError):
        return ""
    return f"; its config.json is that of another model, {kind!r}" if isinstance(kind, str) else ""


def _tokenizer(
    settings: Mapping[str, Any], own: open_clip_config.Section, folder: epath.Path
) -> tuple[str, epath.Path | None]:
    """The kind of a model's tokenizer, and its file."""
    text = settings.get("model_cfg", settings)["text_cfg"]
    name, kind = text.get("hf_tokenizer_name"), own.word("tokenizer")
    if kind is None:
        kind = "json" if name and not str(name).startswith("openai/clip") else "clip"
    if kind not in TOKENIZERS:
        raise UserError(f"its tokenizer {kind!r} is none of {', '.join(TOKENIZERS)}")
    if not TOKENIZERS[kind]:
        return kind, None
    file = folder / TOKENIZERS[kind]
    if not file.is_file():
        raise UserError(f"its tokenizer is {name or kind!r}, and there is no {file}")
    return kind, file
