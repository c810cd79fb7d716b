"""Loads the model of a run or of a converted checkpoint."""

import dataclasses
import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.metadata import Saved, require_files
from coca_jax.config import model_config, read_config
from coca_jax.config.record import stored_config
from coca_jax.config.resolve import unregistered_losses
from coca_jax.data.tokenizers import make_tokenizer, tokenizers
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.inference.model import LoadedModel
from coca_jax.io.folders import children
from coca_jax.io.paths import as_path
from coca_jax.models import init_params, make_model
from coca_jax.models.transformer import unstack

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of other projects


def load(
    path: str | os.PathLike,
    step: int | None = None,
    *,
    use_ema: bool = True,
    devices: Sequence[jax.Device] | None = None,
) -> LoadedModel:
    """The model of a run, at its newest valid checkpoint or the given one, or a converted model.

    Args:
      path: a workdir, local or at gs:// or s3://, or one of its `checkpoints/<step>`; or what
        `coca convert` wrote.
      step: which checkpoint of a workdir.
      use_ema: whether to prefer the moving average of the parameters, where there is one.
      devices: to spread batches over; all of this process's by default.

    Raises:
      UserError: there is no such model, or its files are damaged.
    """
    checkpoint = find_checkpoint(path, step)
    config, workdir = checkpoint.config, checkpoint.workdir
    kind = config.data.tokenizer.kind
    tokenizer = make_tokenizer(kind, workdir / tokenizers[kind].file_name)
    devices = jax.local_devices() if devices is None else devices
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices))
    params = restore_params(checkpoint, partitioner, use_ema)
    # Unstacked: for a single image or caption, slicing the layers would take most of the time.
    model = make_model(dataclasses.replace(model_config(config), stacked=False))
    params = jax.jit(unstack, out_shardings=partitioner.replicated)(params)
    name = f"{checkpoint.identity} {checkpoint.item(use_ema)}"
    classes = config.head.classes if model.config.head else ()
    return LoadedModel(model, params, tokenizer, partitioner, checkpoint.step, name, classes)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A saved step of a run: the place of its parameters, and the run's configuration."""

    workdir: epath.Path
    step: int
    config: ConfigDict
    store: CheckpointStore  # reads the files once to verify them

    @property
    def identity(self) -> str:
        """The checksums of its parameters, which differ from those of other parameters."""
        manifest = self.store.directory / str(self.step) / "manifest.json"
        return hashlib.sha256(manifest.read_bytes()).hexdigest()

    def item(self, use_ema: bool) -> str:
        """The checkpoint's item with the parameters: "ema" if it is wanted and there."""
        return "ema" if use_ema and self.config.optimizer.ema_decay else "params"


def find_checkpoint(path: str | os.PathLike, step: int | None = None) -> Checkpoint:
    """The newest valid checkpoint of a run, or the given one.

    Args:
      path: a workdir, or one of its `checkpoints/<step>`.
      step: which checkpoint of a workdir.

    Raises:
      UserError: there is none.
    """
    path = as_path(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        path, step = path.parent.parent, int(path.name)
    store = CheckpointStore(path / "checkpoints")
    if step is None:
        step = store.latest_valid(report=lambda line: print(line, file=sys.stderr))
    if step is None:
        _refuse_foreign(path)
        read_config(path)  # which says if it is no workdir at all
        raise UserError(f"{store.directory} holds no valid checkpoint; train first")
    saved = Saved(step, store.metadata(step))
    config = stored_config(path, *saved)
    require_files(path, saved)
    return Checkpoint(path, step, config, store)


def _refuse_foreign(path: epath.Path) -> None:
    """Raises a UserError if the path holds weights of another project."""
    names = [path.name] if path.is_file() else [item.name for item in children(path)]
    if any(name.removesuffix(".index.json").endswith(WEIGHTS) for name in names):
        is_hubs = "open_clip_config.json" in names
        variant = "" if is_hubs else "--variant open_clip_vit_b_32 "
        raise UserError(
            f"{path} holds weights of another project; if it is OpenCLIP's CoCa, convert them and "
            f"give the folder that this makes: coca convert --from open_clip {variant}"
            f"{shlex.quote(str(path))} FOLDER"
        )


def restore_params(checkpoint: Checkpoint, partitioner: Partitioner, use_ema: bool = True) -> Any:
    """The checkpoint's parameters as they were stored, stacked layers and all.

    Raises:
      UserError: its files are damaged, or a loss that it was trained with is not registered.
    """
    model, item = make_model(model_config(checkpoint.config)), checkpoint.item(use_ema)
    with partitioner.context():
        target = partitioner.abstract(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    differences = checkpoint.store.layout_differences(checkpoint.step, {item: target})
    if differences and (unknown := unregistered_losses(checkpoint.config)):
        raise UserError(
            f"{checkpoint.workdir} was trained with the loss {', '.join(unknown)}, which is not "
            "registered in this process: evaluate with the configuration file that registers it, "
            "or import that file before coca_jax.load"
        )
    return checkpoint.store.restore(checkpoint.step, {item: target})[item]
