"""The one check of a configuration, which every command makes before it begins."""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from coca_jax import accelerators
from coca_jax.config import Config
from coca_jax.config.checks import errors, key_errors
from coca_jax.data.options import data_errors, missing_options
from coca_jax.distributed.mesh import AXES, mesh_shape
from coca_jax.errors import UserError
from coca_jax.evaluate.parsing import eval_errors
from coca_jax.evaluate.runner import check_eval_data
from coca_jax.observe.writers.registry import missing_packages
from coca_jax.trees import items

# Where one of these is wrong, it cannot be said whether the run fits the devices.
LAYOUT = ("mesh", "sharding", "train.batch_size", "train.grad_accum_steps")


def validate(
    config: Any, devices: int | Sequence[Any] | None = None, *, reads: Collection[str] = ()
) -> None:
    """Checks everything that can be known of a configuration before anything is computed.

    Args:
      config: the whole tree, or anything else.
      devices: those that it is to run on, or their number, which says nothing of their kind;
        None: it is not checked whether it fits them.
      reads: the data that the command reads. `train`: the training data must be named; `eval`: the
        data of every evaluation are opened.

    Raises:
      UserError: a line for each error: the key, its value and what is expected.
    """
    if "stages" in items(config):
        raise UserError("the configuration is a sweep: it has stages, which coca compare trains")
    between = [lambda usable: data_errors(usable.data)]
    if "train" in reads:
        between.append(lambda usable: missing_options(usable.data))
        between.append(lambda usable: _best_errors(usable, items(items(config).get("eval"))))
        between.append(lambda usable: missing_packages(usable.metrics.writers))
    if devices is not None and not any(key.startswith(LAYOUT) for key in key_errors(config)):
        between.append(lambda usable: _device_errors(usable, devices))
    lines = [*errors(config, between), *eval_errors(items(config).get("eval"))]
    if lines:
        raise UserError("\n".join(lines))
    if "eval" in reads:
        check_eval_data(config)


def _best_errors(config: Config, evals: Collection[str]) -> Iterator[str]:
    """Errors of the metric by which the best checkpoint is kept: its steps must be saved."""
    checkpoint, evaluate_every = config.checkpoint, config.train.evaluate_every
    key, mode = f"config.checkpoint.keep_best={checkpoint.keep_best}", checkpoint.best_mode
    evaluation, slash, metric = checkpoint.keep_best.partition("/")
    if not checkpoint.keep_best:
        if mode:
            yield f"config.checkpoint.best_mode={mode} has no effect without keep_best"
        return
    if not slash or not evaluation or not metric:
        yield f"{key} should be EVALUATION/METRIC, such as held_out/loss"
    elif evaluation not in evals:
        names = ", ".join(evals) or "none"
        yield f"{key}: config.eval has no {evaluation}; its evaluations are {names}"
    if not mode:
        yield f"config.checkpoint.best_mode should be min or max, by what is better of {key}"
    if not evaluate_every:
        yield f"{key} needs evaluations during training, and config.train.evaluate_every=0"
    elif evaluate_every % checkpoint.every:
        yield (
            f"{key} needs evaluations of saved steps: config.train.evaluate_every={evaluate_every} "
            f"should be a multiple of config.checkpoint.every={checkpoint.every}"
        )


def _device_errors(config: Config, devices: int | Sequence[Any]) -> Iterator[str]:
    if not isinstance(devices, int):
        yield from accelerators.attention_errors(config.model.attention, devices[0])
        devices = len(devices)
    try:
        shape = dict(zip(AXES, mesh_shape(dataclasses.asdict(config.mesh), devices), strict=True))
    except UserError as error:
        yield f"config.mesh: {error}"
        return
    yield from _batch_errors(config, shape)
    for part in ("image", "text", "pooler"):
        count = getattr(config.model, part).num_heads
        if count % shape["tensor"]:
            yield (
                f"config.model.{part}.num_heads={count} should be a multiple of "
                f"config.mesh.tensor={shape['tensor']}"
            )


def _batch_errors(config: Config, shape: dict[str, int]) -> Iterator[str]:
    """Errors of a batch that cannot be divided among devices and micro-batches."""
    rules, batch_size = dict(reversed(config.sharding.rules)), config.train.batch_size
    if "batch" not in rules:
        yield "config.sharding.rules: a row for 'batch' is missing"
        return
    axes = rules["batch"] or ()
    shards = math.prod(shape[axis] for axis in ([axes] if isinstance(axes, str) else axes))
    block = config.loss.matching.block_size if config.loss.matching.weight else 1
    parts = shards * config.train.grad_accum_steps * block
    texts = config.data.packing.texts_per_row
    if texts > 1 and batch_size % (parts * texts):
        yield (
            f"config.train.batch_size={batch_size}: should be divisible by {parts * texts} "
            f"({shards} data shards x {config.train.grad_accum_steps} micro-batches x "
            f"config.data.packing.texts_per_row={texts})"
        )
    elif batch_size % parts:
        lower = batch_size // parts * parts
        of_blocks = f" x config.loss.matching.block_size={block}" if block > 1 else ""
        nearest = f"{lower} or {lower + parts}" if lower else f"{parts}"
        yield (
            f"config.train.batch_size={batch_size}: should be divisible by {parts} ({shards} data "
            f"shards x {config.train.grad_accum_steps} micro-batches{of_blocks}), such as {nearest}"
        )
