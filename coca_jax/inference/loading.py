"""Loads the model of a run, of a converted checkpoint, or of OpenCLIP's weights."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.best import Best
from coca_jax.checkpoints.metadata import Saved, newest, require_files
from coca_jax.config import model_config, read_config
from coca_jax.config.record import stored_config
from coca_jax.config.resolve import unregistered_losses
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.inference import adapted
from coca_jax.inference.model import LoadedModel
from coca_jax.inference.sources import Checkpoint, OpenClipWeights, QuantizedCheckpoint, Source
from coca_jax.interop import hub
from coca_jax.interop.open_clip_model import is_open_clip, open_model
from coca_jax.interop.shards import ENDS
from coca_jax.io.folders import children
from coca_jax.io.paths import as_path
from coca_jax.models import init_params, int8, make_model
from coca_jax.models.transformer import unstack

BEST = "best"


def load(
    path: str | os.PathLike,
    step: int | str | None = None,
    *,
    use_ema: bool = True,
    devices: Sequence[jax.Device] | None = None,
) -> LoadedModel:
    """The model of a run, at its newest valid checkpoint or the given one, or a converted model.

    Args:
      path: a workdir, local or at gs:// or s3://, one of its `checkpoints/<step>`, or its
        `checkpoints/best`; what `coca convert` wrote; or OpenCLIP's weights of a CoCa next to their
        `open_clip_config.json`, in a folder or on the Hugging Face hub,
        `hf-hub:ORG/NAME[@REVISION]`.
      step: which checkpoint of a workdir; "best": the one that `checkpoint.keep_best` keeps.
      use_ema: whether to prefer the moving average of the parameters, where there is one.
      devices: to spread batches over; all of this process's by default.

    Raises:
      UserError: there is no such model, or its files are damaged.
    """
    return load_from(find_checkpoint(path, step), use_ema=use_ema, devices=devices)


def load_from(
    source: Source, *, use_ema: bool = True, devices: Sequence[jax.Device] | None = None
) -> LoadedModel:
    """The model of `find_checkpoint`; see `load`."""
    config, tokenizer = source.config, source.tokenizer()
    devices = jax.local_devices() if devices is None else devices
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices))
    params = restore_params(source, partitioner, use_ema, as_stored=True)
    # Unstacked: for a single image or caption, slicing the layers would take most of the time.
    model = make_model(dataclasses.replace(model_config(config), stacked=False))
    params = jax.jit(unstack, out_shardings=partitioner.replicated)(params)
    name = f"{source.identity} {source.item(use_ema)}"
    classes = config.head.classes if model.config.head else ()
    return LoadedModel(model, params, tokenizer, partitioner, source.step, name, classes, source)


def find_checkpoint(path: str | os.PathLike, step: int | str | None = None) -> Source:
    """The newest valid checkpoint of a run, or the given one; or OpenCLIP's weights.

    Args:
      path: as of `load`.
      step: as of `load`.

    Raises:
      UserError: there is none, or a step of a model on the hub or of a single checkpoint is asked
        for.
    """
    if hub.is_hub_name(path):
        if step:
            raise UserError(f"{path} has no step {step}: a model on the hub has no checkpoints")
        return _open_clip(path)
    name, path = path, as_path(path)
    asked, own = step, _step_of(path)
    if own is not None:
        path, step = path.parent.parent, own
    store = CheckpointStore(path / "checkpoints")
    if not step and not store.has_steps() and is_open_clip(path):
        return _open_clip(name)
    if step == BEST:
        step = _best(path, store)
    if own is not None and asked not in (None, own, step):
        raise UserError(f"{name} is itself a checkpoint; give the workdir to choose step {asked}")
    if step is None:
        step = store.latest_valid(report=lambda line: print(line, file=sys.stderr))
    if step is None:
        _refuse_foreign(path)
        _refuse_bare_hub_name(name)
        read_config(path)  # which says if it is not a workdir at all
        raise UserError(f"{store.directory} holds no valid checkpoint; train first")
    saved = Saved(step, store.metadata(step))
    config = stored_config(path, *saved)
    require_files(path, saved)
    return _checkpoint(path, saved, config, store)


def _step_of(path: epath.Path) -> int | str | None:
    """The step of a path such as `run/checkpoints/500` or `run/checkpoints/best`, else None."""
    if path.parent.name != "checkpoints":
        return None
    return int(path.name) if path.name.isdigit() else BEST if path.name == BEST else None


def _checkpoint(
    path: epath.Path, saved: Saved, config: ConfigDict, store: CheckpointStore
) -> Checkpoint:
    """A step of a run, by the way in which its parameters are stored."""
    step, metadata = saved
    if metadata.get(int8.KEY):
        return QuantizedCheckpoint(path, step, config, store)
    if adapted.KEY not in metadata:
        return Checkpoint(path, step, config, store)
    record = metadata[adapted.KEY]
    try:
        base = find_recorded(record, config.init.path, record["path"])
    except UserError as error:
        raise UserError(
            f"{path}, step {step}, holds only what LoRA trained, and the model that it began with "
            f"is missing: {error}; put it back, or name the folder that it is in now as "
            f"config.init.path in {path}/config.json"
        ) from error
    return adapted.Adapted(path, step, config, store, base, record["item"])


def find_recorded(record: Mapping[str, Any], *places: str) -> Source:
    """A model that a run needs: that which its factors of LoRA belong to, or its teacher.

    Args:
      record: of `adapted.model_record`.
      places: where it is looked for, one after the other; empty ones are skipped.

    Raises:
      UserError: it is in none of the places; another model may be there.
    """
    errors = []
    for place in dict.fromkeys(filter(None, places)):
        try:
            found = find_checkpoint(place, record["step"])
        except UserError as error:
            errors.append(str(error))
            continue
        if found.identity == record["identity"]:
            return found
        errors.append(f"{found.title}, is another model: its checksum differs")
    raise UserError("; ".join(dict.fromkeys(errors)))


def _best(workdir: epath.Path, store: CheckpointStore) -> int:
    """The step of a run's best checkpoint.

    Raises:
      UserError: the run keeps none, or no step that is saved has the metric.
    """
    saved = newest(store.directory)
    best = Best.of(workdir, stored_config(workdir, *saved) if saved else read_config(workdir))
    if best is None:
        raise UserError(
            f"{workdir} keeps no best checkpoint: config.checkpoint.keep_best is empty; coca "
            "checkpoints lists its steps with their metrics"
        )
    step = store.best_step(best)
    if step is None:
        raise UserError(f"no checkpoint in {store.directory} has a value of {best.metric}")
    return step


def _open_clip(path: str | os.PathLike) -> OpenClipWeights:
    """The source of OpenCLIP's weights."""
    model = open_model(path)
    return OpenClipWeights(model, model.config())


def _refuse_foreign(path: epath.Path) -> None:
    """Raises a UserError if the path holds weights that nothing says what they are of."""
    names = [path.name] if path.is_file() else [item.name for item in children(path)]
    if any(name.endswith(ENDS) for name in names):
        raise UserError(
            f"{path} holds weights of another project without an {hub.SETTINGS} next to them; if "
            "it is OpenCLIP's CoCa, convert them and give the folder that this makes: coca convert "
            f"--from open_clip --variant open_clip_vit_b_32 {shlex.quote(str(path))} FOLDER"
        )


def _refuse_bare_hub_name(name: str | os.PathLike) -> None:
    """Raises a UserError if this is ORG/NAME, and there is no folder ORG."""
    text = os.fspath(name)
    if hub.is_repository(text) and not os.path.lexists(text.partition("/")[0]):
        raise UserError(
            f"{text} does not exist; for a model on the Hugging Face hub write {hub.PREFIX}{text}"
        )


def restore_params(
    source: Source, partitioner: Partitioner, use_ema: bool = True, *, as_stored: bool = False
) -> Any:
    """The source's parameters, stacked layers and all.

    Args:
      source: of `find_checkpoint`.
      partitioner: says where they go.
      use_ema: as of `load`.
      as_stored: whether matrices that are stored as int8 stay so; else they are floats.

    Raises:
      UserError: its files are damaged, or a loss that it was trained with is not registered.
    """
    model, item = make_model(model_config(source.config)), source.item(use_ema)
    with partitioner.context():
        target = partitioner.abstract(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    wanted = traverse_util.flatten_dict(target, sep="/")
    if source.shapes(item).keys() != wanted.keys() and (
        unknown := unregistered_losses(source.config)
    ):
        raise UserError(
            f"{source.title} was trained with the loss {', '.join(unknown)}, which is not "
            "registered in this process: evaluate with the configuration file that registers it, "
            "or import that file before coca_jax.load"
        )
    return source.restore_as_stored(item, target) if as_stored else source.restore(item, target)
