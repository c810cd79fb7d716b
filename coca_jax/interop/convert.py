"""`coca convert`: whole models, with tokenizer and preprocessing, also of other projects."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Shaped
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.metadata import sha256
from coca_jax.config import model_config as model_of
from coca_jax.config import to_json, write_config
from coca_jax.data.tokenizers import tokenizers
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint, restore_params
from coca_jax.inference.sources import OpenClipWeights, Source
from coca_jax.interop import hub, open_clip, open_clip_config
from coca_jax.interop.open_clip_model import open_model
from coca_jax.interop.weights import write_tensors
from coca_jax.io.files import write_whole
from coca_jax.io.folders import is_new, new_folder, remove_tree
from coca_jax.io.paths import as_path, is_url
from coca_jax.models import CoCaConfig, int8
from coca_jax.validation import validate

FLOATS = ("float32", "bfloat16", "float16")  # types that weights are stored as
INT8 = "int8"  # of the matrices


def import_open_clip(
    source: str | os.PathLike,
    variant: str | None,
    directory: str | os.PathLike,
    shifted_cls_mask: bool | None = None,
    report: Callable[[str], None] = lambda line: None,
    dtype: str = "float32",
) -> int:
    """Writes a directory that `coca_jax.load` reads: parameters as step 0, and `config.json`.

    Args:
      source: OpenCLIP's weights: a file, an index of shards, a folder with one of them, or
        `hf-hub:ORG/NAME`.
      variant: name of the preset that they are of, or a JSON file with an OpenCLIP configuration;
        None: the `open_clip_config.json` next to the weights.
      directory: new or empty.
      shifted_cls_mask: whether the weights were trained with OpenCLIP's [CLS] mask, as the
        released ones were; None: as the configuration says, else yes.
      report: is given a line for each thing that the user should know.
      dtype: type that the parameters are stored as, one of `FLOATS`.

    Returns:
      The number of parameters.

    Raises:
      UserError: the weights do not fit the variant, or a file cannot be read or written.
    """
    directory = empty_folder(directory, "the converted model")
    model = open_model(source, variant, shifted_cls_mask)
    config = model.config()
    validate(config)
    params = stored_as(model.params(report), dtype)
    origin, what = hub.public_name(source), hub.public_name(variant or hub.SETTINGS)
    weights = OpenClipWeights(model, config)
    write_model(directory, params, weights, f"{origin} (OpenCLIP, {what})", {})
    return sum(x.size for x in jax.tree.leaves(params))


def write_own(path: str | os.PathLike, directory: str | os.PathLike, dtype: str = "float32") -> int:
    """Writes a directory that `coca_jax.load` reads: one set of parameters, without a run.

    Args:
      path: as of `coca_jax.load`. Of a run with a moving average of its parameters, it is the
        average that is written; of one with LoRA the merged parameters.
      directory: new or empty; exists afterwards only if all was written.
      dtype: type that the parameters are stored as, one of `FLOATS`, or int8: see `models.int8`.

    Returns:
      The number of parameters.

    Raises:
      UserError: there is no such model, or a file cannot be read or written.
    """
    directory = empty_folder(directory, "the model")
    source = find_checkpoint(path)
    params = restore_params(source, Partitioner(make_mesh({"data": 1, "fsdp": 1, "tensor": 1})))
    params = jax.tree.map(np.asarray, params)
    count = sum(x.size for x in jax.tree.leaves(params))
    if dtype == INT8:
        params, metadata = int8.quantize(params), {int8.KEY: INT8}
    else:
        params, metadata = stored_as(params, dtype), {}
    write_model(directory, params, source, f"{source.title} as {dtype}", metadata)
    return count


def write_model(
    directory: epath.Path, params: Any, source: Source, origin: str, metadata: Mapping[str, Any]
) -> None:
    """Writes parameters as step 0 of a new folder, with a model's configuration and tokenizer.

    Args:
      directory: new or empty; exists afterwards only if all was written.
      params: a tree of arrays.
      source: the model whose configuration and tokenizer it has.
      origin: where the parameters come from, in words.
      metadata: more for `metadata.json`.
    """
    config = ConfigDict(source.config.to_dict())
    # It has no factors, moving average or evaluated steps.
    config.lora.rank, config.optimizer.ema_decay = 0, 0.0
    config.checkpoint.update(keep_best="", best_mode="")
    metadata = {"examples_seen": 0, "config": to_json(config), **metadata}
    with new_model_folder(directory, "config.json") as folder:
        if content := tokenizer_content(source):
            name = tokenizers[config.data.tokenizer.kind].file_name
            write_whole(folder / name, content)
            metadata["files"] = {name: sha256(content)}
        with CheckpointStore(folder / "checkpoints") as store:
            store.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, metadata)
        write_config(folder, config, source=origin)


def tokenizer_content(model: Source) -> bytes:
    """The content of a model's tokenizer file as every folder has it; empty: it needs none."""
    kind = tokenizers[model.config.data.tokenizer.kind]
    return kind.standalone_file(model.tokenizer_file) if model.tokenizer_file else b""


def stored_as(params: Any, dtype: str) -> Any:
    """A tree of arrays in another type of floats.

    Raises:
      UserError: there are NaN or infinity, or values that are too large for the type.
    """
    leaves = jax.tree.leaves(params)
    if wrong := sum(not np.isfinite(np.asarray(x)).all() for x in leaves):
        raise UserError(f"NaN or infinity is in {wrong:,} of the model's {len(leaves):,} tensors")

    def cast(value: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            result = np.asarray(value).astype(jax.numpy.dtype(dtype))
        if not np.isfinite(result.astype(np.float32)).all():
            raise UserError(f"--dtype {dtype} cannot hold all weights; bfloat16 and float32 can")
        return result

    return params if dtype == "float32" else jax.tree.map(cast, params)


def empty_folder(folder: str | os.PathLike, what: str) -> epath.Path:
    """The path of a folder that is new or empty.

    Raises:
      UserError: it holds something, or is a file.
    """
    folder = as_path(folder)
    if not is_new(folder):
        raise UserError(f"{folder} is not empty; choose another folder for {what}")
    if folder.is_file():
        raise UserError(f"{folder} is a file; choose a folder for {what}")
    return folder


@contextlib.contextmanager
def new_model_folder(directory: epath.Path, last: str) -> Iterator[epath.Path]:
    """Gives a folder to write to; `directory` has all of it only if the context ends well.

    Args:
      directory: new or empty, local or at a URL.
      last: the name of the file that says that a folder is a model's.
    """
    if not is_url(os.fspath(directory)):
        with new_folder(directory, last) as temporary:
            yield epath.Path(temporary)
        return
    # A store cannot rename folders; there, `last` is written last.
    try:
        yield directory
    except BaseException:
        remove_tree(directory)
        raise


def export_open_clip(
    path: str | os.PathLike, file: str | os.PathLike, dtype: str = "float32"
) -> list[str]:
    """Writes a model's weights as OpenCLIP has them, in a .safetensors file.

    Args:
      path: a workdir, one of its checkpoints, or a converted model. Of a run with a moving average
        of its parameters, it is the average that is written.
      file: what to write.
      dtype: type of the weights, one of `FLOATS`.

    Returns:
      What has to be set in OpenCLIP, since its weights do not say it; a line each.

    Raises:
      UserError: OpenCLIP has no such model, or a file cannot be read or written.
    """
    source = find_checkpoint(path)
    model = model_of(source.config)
    tensors = open_clip_tensors(source, model, dtype)
    write_tensors(file, tensors, open_clip_config.settings(model))
    pixels = open_clip_config.preprocess_settings(model.image)
    notes = [f"images are prepared by {', '.join(f'{k}={v}' for k, v in pixels.items())}"]
    return notes + usage_notes(model, source.config.data.tokenizer.kind, ("clip",))


def open_clip_tensors(
    source: Source, model: CoCaConfig, dtype: str
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """A model's weights as OpenCLIP has them.

    Raises:
      UserError: OpenCLIP has no such model, or the type cannot hold the weights.
    """
    open_clip.require_open_clip(model)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    params = restore_params(source, Partitioner(mesh))
    return stored_as(open_clip.to_open_clip(jax.tree.map(np.asarray, params), model), dtype)


def usage_notes(model: CoCaConfig, tokenizer: str, found: Collection[str]) -> list[str]:
    """What users of OpenCLIP have to do, since neither weights nor configuration say it.

    Args:
      model: the model.
      tokenizer: the kind of its tokenizer.
      found: the kinds that OpenCLIP finds with what is written.
    """
    notes = []
    if not model.text.shifted_cls_mask:
        notes.append(
            "set model.text.correct_cls_mask = True, as the model was trained with that mask"
        )
    if tokenizer not in found:
        notes.append(
            f"give texts as ids, since OpenCLIP finds no tokenizer of the kind {tokenizer}"
        )
    return notes
