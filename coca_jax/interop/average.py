"""`coca average`: one model whose parameters are a weighted mean of those of several models.

Uniform and weighted means are model soups (arXiv 2203.05482), a mean of two models that one was
fine-tuned from is WiSE-FT (arXiv 2109.01903), and an exponential moving average of the steps of a
run is what `optimizer.ema_decay` keeps during training, of fewer steps.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float

from coca_jax.checkpoints.listing import list_steps
from coca_jax.config import differences, to_json
from coca_jax.config.tree import function_free_keys
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint
from coca_jax.inference.sources import Checkpoint, Source
from coca_jax.interop import hub
from coca_jax.interop.convert import empty_folder, stored_as, tokenizer_content, write_model
from coca_jax.io.paths import as_path

PART_BYTES = 2**30  # of a model's parameters that are read at a time
SHOWN = 8  # differences that are named
Weigh = Callable[[int], Sequence[float]]
"""From a number of models to their weights, whose sum is 1."""


def uniform(count: int) -> list[float]:
    """Equal weights."""
    return [1 / count] * count


def ema(decay: float) -> Weigh:
    """The weights of a moving average: `a_1 = x_1`, `a_n = decay * a_{n-1} + (1 - decay) * x_n`."""

    def weigh(count: int) -> list[float]:
        rest = [(1 - decay) * decay ** (count - n) for n in range(2, count + 1)]
        return [decay ** (count - 1), *rest]

    return weigh


def find_models(paths: Sequence[str], *, in_order: bool = False) -> list[Source]:
    """The models at some paths.

    Args:
      paths: as of `coca_jax.load`; a single workdir stands for all of its steps.
      in_order: whether they must be steps of one run, which are sorted.

    Raises:
      UserError: there are fewer than two, one is damaged, or they are not of one run.
    """
    models = [model for path in paths for model in _found(path, alone=len(paths) == 1)]
    if len(models) < 2:
        raise UserError(f"{', '.join(paths)}: an average is of two or more models or steps")
    if not in_order:
        return models
    folders = {m.folder if isinstance(m, Checkpoint) else m.title for m in models}
    if len(folders) > 1:
        raise UserError(f"--ema is of the steps of one run, and these are {len(folders)} models")
    return sorted(models, key=lambda model: model.step)


def _found(path: str, alone: bool) -> Iterator[Source]:
    """The model at a path; of a workdir that stands alone one for each step."""
    listed = []
    if alone and not hub.is_hub_name(path):
        listed = list_steps(as_path(path) / "checkpoints", contents=False)
    steps = [step.step for step in listed if step.state != "unfinished"]
    yield from (find_checkpoint(path, step) for step in steps or [None])


def average(
    models: Sequence[Source],
    weights: Sequence[float],
    directory: str | os.PathLike,
    dtype: str = "float32",
) -> int:
    """Writes a directory that `coca_jax.load` reads: the mean as step 0, and `config.json`.

    It is computed in float64, `PART_BYTES` of the parameters at a time, so that memory holds the
    result and a few such parts, however many models there are; weights of OpenCLIP are converted
    whole for each part. Of a run with a moving average of
    its parameters, that is taken. Configuration and tokenizer are the first model's.

    Args:
      models: of one architecture, with one tokenizer.
      weights: of each model; their sum is 1.
      directory: new or empty; exists afterwards only if all was written.
      dtype: type that the parameters are stored as, one of `convert.FLOATS`.

    Returns:
      The number of parameters.

    Raises:
      UserError: the models do not fit each other, or a file cannot be read or written.
    """
    directory = empty_folder(directory, "the average")
    for model in models[1:]:
        _require_same(models[0], model)
    first = models[0]
    params = stored_as(_mean(models, weights), dtype)
    parts = [
        {"model": model.title, "identity": model.identity, "weight": weight}
        for model, weight in zip(models, weights, strict=True)
    ]
    tree, origin = traverse_util.unflatten_dict(params, sep="/"), f"average of {len(models)} models"
    write_model(directory, tree, first, origin, {"average": parts})
    return sum(value.size for value in params.values())


def _mean(
    models: Sequence[Source], weights: Sequence[float]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The weighted mean of each parameter by its path, float32."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    means = {}
    for part in _parts(models[0].shapes(models[0].item(True))):
        target = {
            name: jax.ShapeDtypeStruct(leaf.shape, np.float32, sharding=device)
            for name, leaf in part.items()
        }
        sums = {name: np.zeros(leaf.shape, np.float64) for name, leaf in part.items()}
        for model, weight in zip(models, weights, strict=True):
            tree = traverse_util.unflatten_dict(target, sep="/")
            values = model.restore(model.item(True), tree, partial=True)
            for name, value in traverse_util.flatten_dict(values, sep="/").items():
                sums[name] += weight * np.asarray(value, np.float64)
        means |= {name: total.astype(np.float32) for name, total in sums.items()}
    return means


def _parts(shapes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters in parts of at most `PART_BYTES` (a larger parameter is one by itself)."""
    part, size = {}, 0
    for name, leaf in shapes.items():
        own = 4 * leaf.size
        if part and size + own > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name], size = leaf, size + own
    yield part


def _require_same(first: Source, other: Source) -> None:
    """Makes sure that a mean of two models makes sense.

    Raises:
      UserError: names what differs in architecture, classes, parameters and tokenizer.
    """
    sections = [
        {"model": c["model"], "head": {"classes": c["head"]["classes"]}, "data": _tokens(c)}
        for c in (to_json(first.config), to_json(other.config))
    ]
    lines = differences(*sections, free=function_free_keys())
    shapes = [model.shapes(model.item(True)) for model in (first, other)]
    names = [
        name for name in shapes[0] | shapes[1] if _shape(shapes[0], name) != _shape(shapes[1], name)
    ]
    lines += [
        f"{name}: {_shape(shapes[0], name)} there, {_shape(shapes[1], name)} here" for name in names
    ]
    if not lines and tokenizer_content(first) != tokenizer_content(other):
        lines = [f"{other.tokenizer_file}: another tokenizer than {first.tokenizer_file}"]
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        text = "\n  ".join([*lines[:SHOWN], *more])
        raise UserError(f"{other.title} cannot be averaged with {first.title}:\n  {text}")


def _tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"tokenizer": {"kind": config["data"]["tokenizer"]["kind"]}}


def _shape(shapes: Mapping[str, Any], name: str) -> str:
    return str(list(shapes[name].shape)) if name in shapes else "absent"
