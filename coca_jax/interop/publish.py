"""A model in the form of OpenCLIP and the Hugging Face hub: as a folder, and uploaded."""

import json
import os
from collections.abc import Callable
from typing import Any

from etils import epath

from coca_jax.config import model_config
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint
from coca_jax.inference.sources import Source
from coca_jax.interop import hub, open_clip_config
from coca_jax.interop.convert import (
    empty_folder,
    new_model_folder,
    open_clip_tensors,
    usage_notes,
)
from coca_jax.interop.model_card import LICENSE, for_hub, model_card
from coca_jax.interop.open_clip_model import OWN, is_open_clip, open_model
from coca_jax.interop.shards import NAMES, main_file, weight_files
from coca_jax.interop.tokenizer_files import tokenizer_files
from coca_jax.interop.weights import write_tensors
from coca_jax.io.files import write_whole
from coca_jax.io.messages import cause
from coca_jax.io.paths import as_path
from coca_jax.models import CoCaConfig


def export_folder(
    path: str | os.PathLike,
    directory: str | os.PathLike,
    dtype: str = "float32",
    license_id: str = "other",
) -> list[str]:
    """Writes the folder of a model that OpenCLIP (`local-dir:`) and `coca_jax.load` read.

    It holds the configuration, the weights, the tokenizer and a model card.

    Args:
      path: a workdir, one of its checkpoints, or a converted model. Of a run with a moving average
        of its parameters, it is the average that is written.
      directory: new or empty.
      dtype: type of the weights, one of `convert.FLOATS`.
      license_id: the license's identifier on the hub, for the model card.

    Returns:
      What users of OpenCLIP should know, since the files do not say it; a line each.

    Raises:
      UserError: OpenCLIP has no such model, or a file cannot be read or written.
    """
    directory = empty_folder(directory, "the exported model")
    if not LICENSE.fullmatch(license_id):
        raise UserError(
            f"--license {license_id!r} should be an identifier of the hub's, such as apache-2.0"
        )
    source = find_checkpoint(path)
    model = model_config(source.config)
    tokens = _tokenizer_files(source)
    tensors = open_clip_tensors(source, model, dtype)
    notes = usage_notes(model, source.config.data.tokenizer.kind, ("clip", "json"))
    card = model_card(source, directory.name, license_id, notes)
    settings = _settings(source, model, directory.name)
    try:
        with new_model_folder(directory, hub.SETTINGS) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / NAMES[0], tensors, settings["model_cfg"])
            files = tokens | {hub.CARD: card.encode()}
            files[hub.SETTINGS] = json.dumps(settings, indent=2).encode()
            for name, content in files.items():  # the last says that the folder is a model's
                write_whole(folder / name, content)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {cause(error)}") from error
    return notes


def push(
    directory: str | os.PathLike,
    name: str,
    private: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> str:
    """Uploads a folder that `export_folder` wrote to the Hugging Face hub.

    Args:
      directory: the folder.
      name: ORG/NAME of the repository, which is created if there is none.
      private: whether a new repository is private. One that is there and public is refused.
      report: is given a line before the upload.

    Returns:
      The repository's address.

    Raises:
      UserError: the folder holds no model of that form, its weights do not fit its configuration,
        or the hub does not take it.
    """
    repository, folder = hub.parse(name).repository, as_path(directory)
    if not folder.is_dir() or not is_open_clip(folder):
        raise UserError(
            f"{folder} is not a folder of the hub's form: it holds no {hub.SETTINGS}; write one by "
            f"coca convert --to open_clip MODEL FOLDER"
        )
    model = open_model(folder)  # whose errors come before the upload
    model.config()
    model.require_weights()
    files: dict[str, str | bytes] = {
        path.relative_to(folder).as_posix(): os.fspath(path)
        for path in _uploaded(folder)
        if path.is_file()
    }
    files[hub.SETTINGS] = _named_settings((folder / hub.SETTINGS).read_bytes(), repository)
    if hub.CARD in files:
        files[hub.CARD] = for_hub(_text(folder / hub.CARD), repository).encode()
    report(f"uploading {', '.join(files)}")
    return hub.upload(name, files, private)


def _uploaded(folder: epath.Path) -> list[epath.Path]:
    """The files of a model, some of which may not be there."""
    names = [hub.SETTINGS, hub.CARD, *hub.TOKENIZER, hub.OWN_TOKENIZER]
    weights = dict.fromkeys([main_file(folder), *weight_files(folder)[0]])
    return [*weights, *(folder / name for name in names)]


def _text(path: epath.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{path} is not UTF-8, which the hub demands: {error}") from error


def _settings(source: Source, model: CoCaConfig, name: str) -> dict[str, Any]:
    """The content of `open_clip_config.json`."""
    kind, settings = source.config.data.tokenizer.kind, open_clip_config.settings(model)
    if kind == "json":
        settings["text_cfg"]["hf_tokenizer_name"] = name
    return {
        "model_cfg": settings,
        "preprocess_cfg": open_clip_config.preprocess_settings(model.image),
        OWN: {"tokenizer": kind, "shifted_cls_mask": model.text.shifted_cls_mask},
    }


def _named_settings(content: bytes, repository: str) -> bytes:
    """The configuration, whose tokenizer is named as a repository: OpenCLIP loads it from there."""
    settings = json.loads(content)
    text = settings.get("model_cfg", {}).get("text_cfg", {})
    if OWN in settings and text.get("hf_tokenizer_name"):
        text["hf_tokenizer_name"] = repository
    return json.dumps(settings, indent=2).encode()


def _tokenizer_files(source: Source) -> dict[str, bytes]:
    file, kind = source.tokenizer_file, source.config.data.tokenizer.kind
    tokenizer = source.tokenizer()
    content = type(tokenizer).standalone_file(file) if file else b""
    return tokenizer_files(kind, tokenizer, content)
