"""The folder of an exported model: a file for each function, the weights, and what they are.

OUT/export.json           functions with inputs and outputs, preprocessing, tokenizer, captions
OUT/weights.safetensors   each weight once, whichever functions read it
OUT/image_encoder.onnx    or .stablehlo; text_encoder and decoder, where the model has them
OUT/tokenizer.json        or tokenizer.model
"""

import importlib.util
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from coca_jax.errors import UserError
from coca_jax.export.description import describe, files_of_tokenizer
from coca_jax.export.functions import Spec, Traced, exported_config, trace_functions, weights_of
from coca_jax.export.stablehlo import PLATFORMS, write_stablehlo
from coca_jax.inference import LoadedModel
from coca_jax.io.folders import is_new, new_folder
from coca_jax.io.messages import cause
from coca_jax.io.paths import is_url, normalize
from coca_jax.models.int8 import dequantized

DESCRIPTION, WEIGHTS = "export.json", "weights.safetensors"
FORMATS = ("stablehlo", "onnx")
DTYPES = ("float32", "bfloat16")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(
    model: LoadedModel,
    folder: str | os.PathLike,
    file_format: str,
    dtype: str = "float32",
    platforms: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Writes a model's functions to a new folder, whole or not at all.

    Args:
      model: a loaded model.
      folder: a local path; nothing is there, or an empty folder.
      file_format: one of `FORMATS`.
      dtype: type of activations and matrices, one of `DTYPES`.
      platforms: the platforms that StableHLO runs on; None: `DEFAULT_PLATFORMS`.

    Returns:
      The content of the folder's `export.json`.

    Raises:
      UserError: see the functions below; or the folder cannot be written.
    """
    require_writable(folder, file_format)
    require_settings(file_format, dtype, platforms)
    require_functions(model)
    weights = weights_of(dequantized(model.params), dtype)
    traced = trace_functions(exported_config(model.config, dtype), weights)
    settings = {"format": file_format, "dtype": dtype, "weights": WEIGHTS}
    if file_format == "stablehlo":
        settings["platforms"] = list(DEFAULT_PLATFORMS if platforms is None else platforms)
    contents = files_of_tokenizer(model)
    description = settings | describe(model, traced, file_format, contents)
    contents[DESCRIPTION] = (json.dumps(description, indent=1) + "\n").encode()
    try:
        with new_folder(folder, DESCRIPTION) as temporary:
            for name, content in contents.items():
                (temporary / name).write_bytes(content)
            _write_functions(temporary, traced, weights, settings)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder} cannot be written: {cause(error)}") from error
    return description


def require_functions(model: LoadedModel) -> None:
    """Refuses a model that has nothing to export, or whose images have no size of the model's.

    Raises:
      UserError: it was trained with neither of the two losses, or takes images as they are.
    """
    if lengths := model.config.image.sequence_lengths:
        raise UserError(
            f"this model takes images as they are (model.image.sequence_lengths={[*lengths]}), and "
            "an exported model takes images of one size"
        )
    if not model.config.has_cls and not model.config.captioning:
        raise UserError(
            "this model was trained without the contrastive and the captioning loss: it has no "
            "embeddings and no captions to export"
        )


def require_writable(folder: str | os.PathLike, file_format: str) -> None:
    """Refuses a place that no model can be exported to.

    Raises:
      UserError: it is a URL, a file, or a folder that holds something; or its name is not UTF-8,
        for ONNX.
    """
    path = normalize(folder)
    if is_url(path):
        raise UserError(f"{path}: a model is exported to a local folder, which can then be copied")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{path} is a file; give a new folder")
    if file_format == "onnx" and path != path.encode(errors="replace").decode():
        raise UserError(f"{path!r} is not UTF-8, as the package onnx demands of a path")
    if not is_new(path):
        raise UserError(f"{path} is not empty; give a new folder")


def require_settings(file_format: str, dtype: str, platforms: Sequence[str] | None) -> None:
    """Refuses settings that do not exist or do not go together.

    Raises:
      UserError: an unknown value, bfloat16 or platforms for ONNX, or the package `onnx` is missing.
    """
    for value, name, allowed in (
        (file_format, "format", FORMATS),
        (dtype, "dtype", DTYPES),
        *((platform, "platforms", PLATFORMS) for platform in platforms or ()),
    ):
        if value not in allowed:
            raise UserError(f"--{name} {value!r}: should be among {', '.join(allowed)}")
    if file_format == "stablehlo":
        return
    if platforms is not None:
        raise UserError("--platforms is for --format stablehlo")
    if dtype != "float32":
        raise UserError(
            f"--dtype {dtype} is for --format stablehlo: onnxruntime multiplies no matrices of "
            "that type on CPUs"
        )
    if importlib.util.find_spec("onnx") is None:
        raise UserError("--format onnx needs the package onnx: pip install coca_jax[onnx]")


def _write_functions(
    folder: pathlib.Path,
    traced: Sequence[Traced],
    weights: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
) -> None:
    """Writes the weights that are read, and a file for each function."""
    read = {name for function in traced for name in function.weights}
    save_file({name: weights[name] for name in sorted(read)}, folder / WEIGHTS)
    shutil.copymode(folder / DESCRIPTION, folder / WEIGHTS)  # safetensors' is the owner's alone
    specs = {name: Spec(weights[name].shape, weights[name].dtype) for name in read}
    for function in traced:
        path = folder / f"{function.name}.{settings['format']}"
        own = {name: specs[name] for name in function.weights}
        if settings["format"] == "stablehlo":
            write_stablehlo(function, own, path, settings["platforms"])
        else:
            from coca_jax.export.onnx_file import write_onnx

            write_onnx(function, own, path, folder / WEIGHTS)
