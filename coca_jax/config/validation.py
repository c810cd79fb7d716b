"""What can be wrong with a configuration, found before anything compiles and told all at once."""

import math
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict

from coca_jax.config.default import default_config
from coca_jax.config.loading import flatten
from coca_jax.errors import UserError
from coca_jax.parallel.mesh import AXES, mesh_shape

CHOICES = {
    "loss.contrastive.kind": ("softmax", "sigmoid"),
    "loss.contrastive.reduction": ("sum", "mean"),
    "optimizer.name": ("adafactor", "adamw", "lion"),
    "optimizer.schedule": ("linear", "cosine", "rsqrt", "constant"),
    "model.pooler.kind": ("cascade", "parallel", "shared"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn"),
    "train.quantization": ("", "int8", "fp8"),
    "head.reads": ("image", "text"),
    "data.tokenizer.kind": ("sentencepiece", "byte", "clip", "json"),
}
POSITIVE = (
    *(f"model.image.{key}" for key in ("size", "patch", "width", "layers", "heads", "mlp")),
    *(f"model.text.{key}" for key in ("vocab_size", "width", "heads", "mlp")),
    *(f"model.text.{key}" for key in ("unimodal_layers", "multimodal_layers")),
    "model.pooler.heads",
    "train.steps",
    "train.batch_size",
    "train.accumulate",
    "train.log_every",
    "checkpoint.every",
    "checkpoint.keep",
    "optimizer.learning_rate",
    "loss.contrastive.initial_temperature",
    "loss.contrastive.temperature_floor",
    "loss.contrastive.chunk",
    "loss.captioning.chunk",
    "processes.start_seconds",
    "processes.heartbeat_seconds",
    "data.threads",
    "data.frames",
    "optimizer.layer_decay",
    "model.scan_unroll",
    "model.text.length",
)
NOT_NEGATIVE = (
    "seed",
    "loss.contrastive.weight",
    "loss.captioning.weight",
    "loss.classification.weight",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "optimizer.warmup_steps",
    "train.evaluate_every",
    "train.epochs",
    "data.workers",
    "model.pooler.caption_queries",
    "model.image.columns",
    "model.embedding",
    "profile.start",
    "profile.steps",
    "watchdog.factor",
    "watchdog.seconds",
)
SHARES = (
    "model.dropout",
    "model.stochastic_depth",
    "model.image.patch_dropout",
    "optimizer.ema_decay",
    "loss.classification.label_smoothing",
    "data.max_bad_share",
)
FREE_FORM = ("eval.", "data.sources.")  # sections whose keys are names


def validate(config: ConfigDict, devices: int | None = None, others: Sequence[str] = ()) -> None:
    """Checks a whole configuration, and whether it fits the devices it is to run on.

    Args:
      config: the whole tree.
      devices: how many there are; None leaves the mesh unchecked.
      others: problems found elsewhere, to be told in the same message.

    Raises:
      UserError: one line per problem, each with the key, its value and what would be right.
    """
    problems = structure(config)
    if not problems:
        problems = list(_values(config))
        if not any("positive" in problem for problem in problems):
            problems += _model(config)
            problems += [] if devices is None else _mesh(config, devices)
    problems += others
    if problems:
        raise UserError("\n".join(problems))


def structure(config: ConfigDict) -> list[str]:
    """What is wrong with the tree's keys and types, without which no value can be looked at."""
    return list(_structure(config))


def _structure(config: ConfigDict) -> Iterator[str]:
    """Keys that are unknown, missing or of the wrong type; `eval` is looked at elsewhere."""
    known, given = flatten(default_config().to_dict()), flatten(config.to_dict())
    for key in sorted(given.keys() - known.keys()):
        if not key.startswith(FREE_FORM):
            yield f"config.{key}={given[key]!r} is not a key there is (coca_jax/config/default.py)"
    for key, default in known.items():
        if f"{key}." in FREE_FORM:
            continue
        if key not in given:
            yield f"config.{key} is missing; its default is {default!r}"
        elif not _fits(given[key], default):
            yield f"config.{key}={given[key]!r} should be of type {type(default).__name__}"
    yield from _sources(config.get("data", {}).get("sources", {}))


def _sources(sources: ConfigDict) -> Iterator[str]:
    """The same of the data sets of a mixture, which have a weight and what `data.train` has."""
    known = {"weight": 0.0} | default_config().data.train.to_dict()
    for name, section in sources.items():
        if not isinstance(section, ConfigDict):
            yield f"config.data.sources.{name}={section!r} should be a section, like data.train"
            continue
        for key, value in section.items():
            if key not in known:
                yield (
                    f"config.data.sources.{name}.{key}={value!r} is not a key there is; there are "
                    f"{', '.join(known)}"
                )
            elif not _fits(value, known[key]):
                kind = type(known[key]).__name__
                yield f"config.data.sources.{name}.{key}={value!r} should be of type {kind}"


def _fits(value, default) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple))
    return isinstance(value, type(default))


def _values(config: ConfigDict) -> Iterator[str]:
    flat = flatten(config.to_dict())
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            names = ", ".join(choice or "'' (none)" for choice in choices)
            yield f"config.{key}={flat[key]!r} should be one of {names}"
    for key in POSITIVE:
        if flat[key] <= 0:
            yield f"config.{key}={flat[key]!r} should be positive"
    for key in SHARES:
        if not 0 <= flat[key] < 1:
            yield f"config.{key}={flat[key]!r} should be at least 0 and below 1"
    for key in NOT_NEGATIVE:
        if flat[key] < 0:
            yield f"config.{key}={flat[key]!r} should not be negative"
    if not any(flat[f"loss.{name}.weight"] for name in default_config().loss):
        yield "config.loss: all weights are 0; at least one loss must be trained"
    yield from _head(config)
    if not math.isfinite(flat["train.epochs"]):
        yield f"config.train.epochs={flat['train.epochs']!r} should be finite"
    known = not flat["train.epochs"]  # of how many steps they are, the data must tell
    if known and flat["optimizer.warmup_steps"] >= flat["train.steps"] > 0:
        yield (
            f"config.optimizer.warmup_steps={flat['optimizer.warmup_steps']} should be less than "
            f"config.train.steps={flat['train.steps']}"
        )
    if flat["init.only"] != ".*" and not flat["init.path"]:
        yield f"config.init.only={flat['init.only']!r} is of no use without config.init.path"
    if flat["optimizer.layer_decay"] > 1:
        yield f"config.optimizer.layer_decay={flat['optimizer.layer_decay']!r} should be at most 1"
    for row in flat["compiler_options"]:
        if not isinstance(row, (list, tuple)) or len(row) != 2 or not isinstance(row[0], str):
            yield f"config.compiler_options: {row!r} should be (name, value)"
    policies = [name for name in dir(jax.checkpoint_policies) if name.endswith("saveable")]
    policies = ["none", "full", "offload", *policies]
    for key in ("model.remat", "model.image.remat", "model.text.remat"):
        inherited = "" if key == "model.remat" else "empty (the model's), "
        if flat[key] not in policies and not (inherited and not flat[key]):
            yield f"config.{key}={flat[key]!r} should be {inherited}one of {', '.join(policies)}"


def _head(config: ConfigDict) -> Iterator[str]:
    """What is wrong with the task that a head is for."""
    loss, classes, frames = config.loss, config.head.classes, config.data.frames
    if not loss.classification.weight:
        if config.head.classes or config.head.class_file:
            yield "config.head.classes is of no use: config.loss.classification.weight=0.0"
    elif len(classes) < 2 or len(set(classes)) < len(classes):
        twice = sorted({name for name in classes if list(classes).count(name) > 1})[:5]
        found = f"{len(classes)} names, of which these are there twice: {', '.join(twice)}"
        yield (
            "config.head.classes should be the names of two or more different classes, and are "
            f"{found if twice else list(classes)}"
        )
    sections = config.data.sources.values() or [config.data.train]
    captions = [section.get("captions", config.data.train.captions) for section in sections]
    if loss.classification.weight and config.head.reads == "image" and "questions" in captions:
        yield "config.head.reads=image sees no questions, and data.train.captions=questions"
    of_texts = loss.contrastive.weight or loss.captioning.weight or config.head.reads == "text"
    if of_texts and "none" in captions:
        yield "config.data.train.captions=none is for a head that reads images, and no other loss"
    if frames > 1 and (loss.contrastive.weight or loss.captioning.weight):
        yield (
            f"config.data.frames={frames} is for a head alone: config.loss.contrastive.weight="
            f"{loss.contrastive.weight} and config.loss.captioning.weight="
            f"{loss.captioning.weight} should be 0"
        )


def _model(config: ConfigDict) -> Iterator[str]:
    model = config.model
    if model.image.size % model.image.patch:
        yield (
            f"config.model.image.size={model.image.size} should be a multiple of "
            f"config.model.image.patch={model.image.patch}"
        )
    for part, width in (("image", "image"), ("text", "text"), ("pooler", "text")):
        if model[width].width % model[part].heads:
            yield (
                f"config.model.{width}.width={model[width].width} should be a multiple of "
                f"config.model.{part}.heads={model[part].heads}"
            )
        elif model.attention == "cudnn" and (size := model[width].width // model[part].heads) % 8:
            yield (
                f"config.model.attention=cudnn needs heads whose size is a multiple of 8, and "
                f"config.model.{part}.heads={model[part].heads} makes it {size}; xla takes any"
            )
    if model.attention == "cudnn" and model.dtype == "float32":
        yield "config.model.attention=cudnn needs config.model.dtype=bfloat16"

    head, part = config.head.reads, "text" if config.head.reads == "text" else "image"
    if config.loss.classification.weight and model[part].width % model.pooler.heads:
        yield (
            f"config.model.{part}.width={model[part].width}, which config.head.reads={head} pools, "
            f"should be a multiple of config.model.pooler.heads={model.pooler.heads}"
        )


def _mesh(config: ConfigDict, devices: int) -> Iterator[str]:
    for row in (*config.sharding.rules, *config.sharding.optimizer_rules):
        if len(row) != 2 or not isinstance(row[0], str):
            yield f"config.sharding: {row!r} should be (logical axis, mesh axes or None)"
            return
    try:
        shape = dict(zip(AXES, mesh_shape(config.mesh, devices), strict=True))
    except UserError as error:
        yield f"config.mesh: {error}"
        return
    names = {name for name, _ in config.sharding.rules}
    rules = (*config.sharding.rules, *config.sharding.optimizer_rules)
    for axis in [a for _, to in rules for a in _as_tuple(to)]:
        if axis not in AXES:
            yield f"config.sharding: mesh axis {axis!r} should be one of {', '.join(AXES)}"
            return
    if "batch" not in names:
        yield "config.sharding.rules: a row for 'batch' is missing"
        return
    batch_axes = next(_as_tuple(to) for name, to in config.sharding.rules if name == "batch")
    shards = 1
    for axis in batch_axes:
        shards *= shape[axis]
    parts = shards * config.train.accumulate
    if config.train.batch_size % parts:
        lower = config.train.batch_size // parts * parts
        near = f"{lower} or {lower + parts}" if lower else f"{parts}"
        yield (
            f"config.train.batch_size={config.train.batch_size} cannot be divided into {shards} "
            f"shards x {config.train.accumulate} micro-batches; {near} could"
        )
    for part in ("image", "text", "pooler"):
        if config.model[part].heads % shape["tensor"]:
            yield (
                f"config.model.{part}.heads={config.model[part].heads} should be a multiple of "
                f"config.mesh.tensor={shape['tensor']}"
            )


def _as_tuple(axes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
