"""What can be wrong with a configuration, found before anything compiles and told all at once."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.default import default_config
from coca_jax.config.keys import KEYS, NAME, SOURCE_KEYS
from coca_jax.config.loading import flatten, items
from coca_jax.data import checks
from coca_jax.data.checks import repeated
from coca_jax.distributed.mesh import AXES, mesh_shape
from coca_jax.errors import UserError
from coca_jax.fields import Kind, near, shown


def validate(
    config: ConfigDict,
    devices: int | None = None,
    others: Sequence[str] = (),
    *,
    reads_data: bool = False,
) -> None:
    """Checks a configuration but for `eval`, and whether it fits the devices it is to run on.

    `coca_jax.evaluate.validation` checks the evaluations, too.

    Args:
      config: the whole tree.
      devices: how many there are; None leaves the mesh unchecked.
      others: problems found elsewhere, to be told in the same message.
      reads_data: whether the training data are read, and must be named.

    Raises:
      UserError: one line per problem, each with the key, its value and what would be right.
    """
    wrong = key_errors(config)
    usable = _usable(config, wrong)
    found = [*_values(usable), *_model(usable), *checks.mistakes(usable.data)]
    found += checks.unnamed(usable.data) if reads_data else []
    if devices is not None and not any(map(_lays_out, wrong)):
        found += _mesh(usable, devices)
    # What is said of a key that is wrong in itself is about the default in its place.
    found = [text for text in found if not any(f"config.{key}" in text for key in wrong)]
    if problems := [*wrong.values(), *found, *others]:
        raise UserError("\n".join(dict.fromkeys(problems)))


def structure(config: Any) -> list[str]:
    """What is wrong with keys and their values, each by itself; without that all can be read."""
    return [*key_errors(config).values()]


def key_errors(tree: Any) -> dict[str, str]:
    """What is wrong with each dotted key by itself: unknown, missing, or of an impossible value.

    Args:
      tree: a configuration, or anything else; nothing is raised.
    """
    return dict(_key_errors(tree, "", SECTIONS))


def _key_errors(tree: Any, prefix: str, kinds: dict[str, Any]) -> Iterator[tuple[str, str]]:
    key = prefix.removesuffix(".")
    if not isinstance(tree, (Mapping, ConfigDict)):
        keys = f" with {', '.join(kinds)}" if kinds else ""
        yield key, f"config{key and '.'}{key}={shown(tree)} should be a section{keys}"
        return
    section = items(tree)
    for name in section if kinds else ():
        if name not in kinds:
            yield (
                f"{prefix}{name}",
                f"config.{prefix}{name}={shown(section[name])} is not a key there is "
                f"(coca_jax/config/default.py){near(name, kinds, f'config.{prefix}')}",
            )
    for name, kind in kinds.items():
        if name not in section:
            yield f"{prefix}{name}", f"config.{prefix}{name} is missing" + _default(prefix + name)
        elif f"{prefix}{name}" == "data.sources":
            yield from _source_errors(section[name])
        elif not isinstance(kind, Kind):
            yield from _key_errors(section[name], f"{prefix}{name}.", kind)
        elif not kind.holds(section[name]):
            value = shown(section[name])
            yield f"{prefix}{name}", f"config.{prefix}{name}={value} should be {kind.wanted}"


def _source_errors(sources: Any) -> Iterator[tuple[str, str]]:
    """The same of the data sets of a mixture, which have some of the keys only."""
    yield from _key_errors(sources, "data.sources.", {})
    for name, section in items(sources).items():
        if not NAME.holds(name):
            yield (
                f"data.sources.{name}",
                f"config.data.sources: {shown(name)} should be {NAME.wanted}",
            )
        for key, problem in _key_errors(section, f"data.sources.{name}.", SOURCE_KEYS):
            if not problem.startswith(f"config.{key} is missing"):
                yield key, problem


def _default(key: str) -> str:
    value = flatten(default_config()).get(key)
    return "" if value is None else f"; its default is {shown(value)}"


def _nested(kinds: dict[str, Kind]) -> dict[str, Any]:
    """Sections of sections, of dotted keys; those of `eval` are looked at elsewhere."""
    tree: dict[str, Any] = {"eval": {}}
    for key, kind in kinds.items():
        *parents, leaf = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = kind
    tree["data"]["sources"] = {}
    return tree


SECTIONS = _nested(KEYS)


def _usable(tree: Any, wrong: Container[str]) -> ConfigDict:
    """The tree with defaults in place of what is wrong, so that all else can be looked at."""
    usable = default_config()
    for key in KEYS:
        *parents, leaf = key.split(".")
        section, place = tree, usable
        for parent in parents:
            section, place = items(section).get(parent), place[parent]
        if leaf in (values := items(section)) and key not in wrong:
            with place.ignore_type():
                place[leaf] = values[leaf]
    evaluations, data = (items(items(tree).get(name)) for name in ("eval", "data"))
    usable.eval = {str(name): value for name, value in evaluations.items()}
    usable.data.sources = {
        str(name): {
            k: v for k, v in items(section).items() if f"data.sources.{name}.{k}" not in wrong
        }
        for name, section in items(data.get("sources")).items()
    }
    return usable


def _lays_out(key: str) -> bool:
    return key.startswith(("mesh", "sharding", "train.batch_size", "train.grad_accum_steps"))


def _values(config: ConfigDict) -> Iterator[str]:
    flat = flatten(config)
    if not any(flat[f"loss.{name}.weight"] for name in config.loss):
        yield "config.loss: all weights are 0; at least one loss must be trained"
    yield from _head(config)
    known = not flat["train.epochs"]  # of how many steps they are, the data must tell
    if known and flat["optimizer.warmup_steps"] >= flat["train.steps"]:
        yield (
            f"config.optimizer.warmup_steps={flat['optimizer.warmup_steps']} should be less than "
            f"config.train.steps={flat['train.steps']}"
        )
    if flat["init.only"] != ".*" and not flat["init.path"]:
        yield f"config.init.only={shown(flat['init.only'])} is of no use without config.init.path"


def _head(config: ConfigDict) -> Iterator[str]:
    """What is wrong with the task that a head is for."""
    loss, classes, num_images = config.loss, config.head.classes, config.data.num_images
    if not loss.classification.weight:
        if config.head.classes or config.head.class_file:
            yield "config.head.classes is of no use: config.loss.classification.weight=0.0"
    elif len(classes) < 2:
        yield f"config.head.classes={list(classes)} should be the names of two or more classes"
    sections = config.data.sources.values() or [config.data.train]
    captions = [section.get("captions", config.data.train.captions) for section in sections]
    # Labels that are numbers tell classes of one name apart; answers are names.
    if "questions" in captions and (twice := repeated(classes)):
        yield f"config.head.classes: answers cannot tell apart {', '.join(map(shown, twice[:5]))}"
    if loss.classification.weight and config.head.input == "image" and "questions" in captions:
        yield "config.head.input=image sees no questions, and data.train.captions=questions"
    of_texts = loss.contrastive.weight or loss.captioning.weight or config.head.input == "text"
    if of_texts and "none" in captions:
        yield "config.data.train.captions=none is for a head that reads images, and no other loss"
    if num_images > 1 and (loss.contrastive.weight or loss.captioning.weight):
        yield (
            f"config.data.num_images={num_images} is for a head alone: "
            f"config.loss.contrastive.weight={loss.contrastive.weight} and "
            f"config.loss.captioning.weight={loss.captioning.weight} should be 0"
        )


def _model(config: ConfigDict) -> Iterator[str]:
    model = config.model
    if model.image.size % model.image.patch:
        yield (
            f"config.model.image.size={model.image.size} should be a multiple of "
            f"config.model.image.patch={model.image.patch}"
        )
    for part, width in (("image", "image"), ("text", "text"), ("pooler", "text")):
        if model[width].width % model[part].num_heads:
            yield (
                f"config.model.{width}.width={model[width].width} should be a multiple of "
                f"config.model.{part}.num_heads={model[part].num_heads}"
            )
        elif (
            model.attention == "cudnn" and (size := model[width].width // model[part].num_heads) % 8
        ):
            yield (
                f"config.model.attention=cudnn needs heads whose size is a multiple of 8, and "
                f"config.model.{part}.num_heads={model[part].num_heads} makes it "
                f"{size}; xla takes any"
            )
    if model.attention == "cudnn" and model.dtype == "float32":
        yield "config.model.attention=cudnn needs config.model.dtype=bfloat16"

    head, part = config.head.input, "text" if config.head.input == "text" else "image"
    if config.loss.classification.weight and model[part].width % model.pooler.num_heads:
        yield (
            f"config.model.{part}.width={model[part].width}, which config.head.input={head} pools, "
            f"should be a multiple of config.model.pooler.num_heads={model.pooler.num_heads}"
        )


def _mesh(config: ConfigDict, devices: int) -> Iterator[str]:
    try:
        shape = dict(zip(AXES, mesh_shape(config.mesh, devices), strict=True))
    except UserError as error:
        yield f"config.mesh: {error}"
        return
    names = {name for name, _ in config.sharding.rules}
    if "batch" not in names:
        yield "config.sharding.rules: a row for 'batch' is missing"
        return
    batch_axes = next(_as_tuple(to) for name, to in config.sharding.rules if name == "batch")
    shards = 1
    for axis in batch_axes:
        shards *= shape[axis]
    parts = shards * config.train.grad_accum_steps
    if config.train.batch_size % parts:
        lower = config.train.batch_size // parts * parts
        nearest = f"{lower} or {lower + parts}" if lower else f"{parts}"
        yield (
            f"config.train.batch_size={config.train.batch_size} cannot be divided into {shards} "
            f"shards x {config.train.grad_accum_steps} micro-batches; {nearest} could"
        )
    for part in ("image", "text", "pooler"):
        if config.model[part].num_heads % shape["tensor"]:
            yield (
                f"config.model.{part}.num_heads={config.model[part].num_heads} should be a "
                f"multiple of config.mesh.tensor={shape['tensor']}"
            )


def _as_tuple(axes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
