"""Errors in the keys and values of a configuration, all at once.

`coca_jax.validation` also checks evaluations, data and devices.
"""

import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.kinds import NAME
from coca_jax.config.schema import Config, LoraConfig
from coca_jax.config.tree import build
from coca_jax.data.options import MixtureConfig, TrainDataConfig, section_key
from coca_jax.data.packing import packing_errors
from coca_jax.fields import Kind, Sections, fields_of, is_section, is_sequence, members, near, shown
from coca_jax.io.messages import duplicates
from coca_jax.losses.registry import outputs_read, trained_losses
from coca_jax.models.coca import CoCaOutput
from coca_jax.trees import items

BY_NAME = ("eval", "data.sources")  # sections whose names a configuration chooses
ADDED = ("loss", "metrics.options")  # sections to which a registered class adds one
Check = Callable[[Config], Iterable[str]]
"""A function from a configuration, in which each value is allowed by itself, to messages."""


def errors(config: Any, checks: Sequence[Check] = (), *, stored: bool = False) -> list[str]:
    """A line for each error: the key, its value and what is expected.

    Args:
      config: the whole tree, or anything else.
      checks: further ones, after those of keys and between keys.
      stored: whether it is the record of a run, which may name what another process registered.
    """
    invalid = key_errors(config, stored)
    usable = build(_usable(config, invalid))
    # It is not known what a loss reads that another process registered.
    known = items(items(config).get("loss")).keys() <= usable.loss.keys() or not stored
    of_new_runs = [_without_effect, _temperature] * (not stored)
    checks = (*[_between_keys] * known, *of_new_runs, *checks)
    lines = [line for check in checks for line in check(usable)]
    # A message that names an invalid key is about the default in its place.
    lines = [line for line in lines if not any(f"config.{key}" in line for key in invalid)]
    return list(dict.fromkeys([*invalid.values(), *lines]))


def key_errors(tree: Any, stored: bool = False) -> dict[str, str]:
    """Errors of single keys, by dotted key: unknown, missing, or with a value not allowed.

    Args:
      tree: a configuration, or anything else; nothing is raised.
      stored: as of `errors`.
    """
    return dict(_key_errors(tree, "", Config(), stored))


def _key_errors(
    tree: Any, prefix: str, section: Any, stored: bool = False
) -> Iterator[tuple[str, str]]:
    key, keys, values = prefix.removesuffix("."), members(section), items(tree)
    if not isinstance(tree, (Mapping, ConfigDict)):
        names = f" with {', '.join(keys)}" if keys else ""
        yield key, f"config{key and '.'}{key}={shown(tree)} should be a section{names}"
        return
    of_others = key in BY_NAME or (stored and key in ADDED)
    for name in () if of_others else values:
        if name not in keys:
            yield (
                f"{prefix}{name}",
                f"config.{prefix}{name}={shown(values[name])} is unknown; "
                f"docs/configuration.md has all keys{near(name, keys, f'config.{prefix}')}",
            )
    fields = {} if isinstance(section, Sections) else fields_of(type(section))
    for name, default in keys.items():
        if name not in values:
            yield f"{prefix}{name}", f"config.{prefix}{name} is missing" + _default(default)
        elif is_section(default):
            yield from _key_errors(values[name], f"{prefix}{name}.", default, stored)
        elif not _may_be(values[name], fields[name].kind, stored):
            yield (
                f"{prefix}{name}",
                f"config.{prefix}{name}={shown(values[name])} should be {fields[name].kind.wanted}",
            )
    if key == "data.sources":
        yield from _source_errors(values)


def _may_be(value: Any, kind: Kind, stored: bool) -> bool:
    if kind.holds(value) or not (stored and kind.registered):
        return kind.holds(value)
    return all(isinstance(name, str) for name in (value if is_sequence(value) else [value]))


def _source_errors(sources: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """Errors of single keys of the data sets of a mixture, which may lack any key."""
    for name, section in sources.items():
        if not NAME.holds(name):
            yield (
                f"data.sources.{name}",
                f"config.data.sources: {shown(name)} should be {NAME.wanted}",
            )
        for key, error in _key_errors(section, f"data.sources.{name}.", MixtureConfig()):
            if not error.startswith(f"config.{key} is missing"):
                yield key, error


def _default(value: Any) -> str:
    return "" if value is None or is_section(value) else f"; its default is {shown(value)}"


def _usable(tree: Any, invalid: Container[str]) -> ConfigDict:
    """The tree with defaults in place of invalid values, so that the others can be checked."""
    usable = _usable_values(tree, "", Config(), invalid)
    data = items(items(tree).get("data"))
    usable["data"]["sources"] = {
        str(name): {
            k: v for k, v in items(section).items() if f"data.sources.{name}.{k}" not in invalid
        }
        for name, section in items(data.get("sources")).items()
    }
    return ConfigDict(usable)


def _usable_values(tree: Any, prefix: str, section: Any, invalid: Container[str]) -> dict[str, Any]:
    values, usable = items(tree), {}
    for name, default in members(section).items():
        key = f"{prefix}{name}"
        if is_section(default):
            usable[name] = _usable_values(values.get(name), f"{key}.", default, invalid)
        else:
            usable[name] = values[name] if name in values and key not in invalid else default
    return usable


def _between_keys(config: Config) -> Iterator[str]:
    if not any(loss.weight for loss in config.loss.values()):
        yield "config.loss: all weights are 0; at least one loss must be trained"
    outputs = [field.name for field in dataclasses.fields(CoCaOutput)]
    for name, loss in trained_losses(config.loss).items():
        if unknown := [output for output in loss.reads if output not in outputs]:
            yield (
                f"config.loss.{name} reads {', '.join(unknown)}, and the model has the outputs "
                f"{', '.join(outputs)}"
            )
    yield from _negatives(config)
    yield from _head(config)
    warmup, steps = config.optimizer.warmup_steps, config.train.steps
    if not config.train.epochs and warmup >= steps:  # the steps of epochs depend on the data
        yield (
            f"config.optimizer.warmup_steps={warmup} should be less than config.train.steps={steps}"
        )
    yield from _lora(config)
    yield from _model(config)
    yield from _packing(config)
    distillation = config.loss["distillation"]
    if bool(distillation.weight) != bool(distillation.teacher):
        yield (
            f"config.loss.distillation.teacher={shown(distillation.teacher)} and "
            f"config.loss.distillation.weight={distillation.weight}: distillation needs both"
        )


def _without_effect(config: Config) -> Iterator[str]:
    """Errors of settings of what is off."""
    init, lora, contrastive = config.init, config.lora, config.loss.contrastive
    if init.only != ".*" and not init.path:
        yield f"config.init.only={shown(init.only)} has no effect without config.init.path"
    for name in ("full", "layers", "alpha"):
        if not lora.rank and (value := getattr(lora, name)) != getattr(LoraConfig, name):
            yield f"config.lora.{name}={shown(value)} has no effect: config.lora.rank=0"
    data_sets = {section_key(n): options for n, options in config.data.data_sets().items()}
    compares = "image_embeddings" in outputs_read(trained_losses(config.loss))
    near_each_other = any(options.neighborhoods for options in data_sets.values())
    for key, options in data_sets.items():
        size = options.neighborhood_size
        if not near_each_other and size != TrainDataConfig.neighborhood_size:
            yield (
                f"config.{key}.neighborhood_size={size} has no effect without "
                f"config.{key}.neighborhoods"
            )
        if options.keep_captions and not options.captions_from:
            yield (
                f"config.{key}.keep_captions=True has no effect without config.{key}.captions_from"
            )
        if options.keep_captions and options.negatives:
            yield (
                f"config.{key}.keep_captions=True adds captions that "
                f"config.{key}.negatives={shown(options.negatives)} has no wrong ones for: set one "
                "of the two"
            )
        for name, is_read in (("negatives", contrastive.weight > 0), ("group", compares)):
            if not is_read and (value := getattr(options, name)):
                yield (
                    f"config.{key}.{name}={shown(value)} has no effect: "
                    "config.loss.contrastive.weight=0.0"
                )


def _temperature(config: Config) -> Iterator[str]:
    """Errors of the temperature that training starts with."""
    first = config.loss.contrastive.initial_temperature
    for name, loss in trained_losses(config.loss).items():
        floor = getattr(loss, "temperature_floor", first)
        if first < floor:
            yield (
                f"config.loss.contrastive.initial_temperature={first} should be at least "
                f"config.loss.{name}.temperature_floor={floor}"
            )


def _negatives(config: Config) -> Iterator[str]:
    """Errors of wrong captions and of a matching head."""
    matching = config.loss.matching.weight > 0
    if matching and not config.loss.contrastive.weight:
        yield (
            "config.loss.matching.weight needs config.loss.contrastive.weight above 0: hard "
            "negatives are drawn by the similarities that it trains"
        )
    keys = [
        f"config.{section_key(name)}.negatives"
        for name, options in config.data.data_sets().items()
        if options.negatives
    ]
    if matching:
        keys = ["config.loss.matching.weight"]
    if config.data.packing.texts_per_row > 1 and keys:
        key = f"config.data.packing.texts_per_row={config.data.packing.texts_per_row}"
        yield f"{key}: {keys[0]} needs a row for each text; texts_per_row should be 1"


def _packing(config: Config) -> Iterator[str]:
    """Errors of packed texts."""
    packing, text = config.data.packing, config.model.text
    yield from packing_errors(packing, text.context_length, config.train.batch_size)
    key = f"config.data.packing.texts_per_row={packing.texts_per_row}"
    if packing.texts_per_row > 1 and _trains_head(config):
        yield f"{key}: a head needs a row for each text; texts_per_row should be 1"
    if packing.texts_per_row > 1 and text.shifted_cls_mask:
        yield (
            f"{key} needs config.model.text.shifted_cls_mask=False: OpenCLIP's mask looks beyond "
            "the end of a text"
        )


def _lora(config: Config) -> Iterator[str]:
    """Errors of LoRA, which needs a trained model, and has settings that do not go with it."""
    key, init = f"config.lora.rank={config.lora.rank}", config.init
    if not config.lora.rank:
        return
    if not init.path:
        yield f"{key} needs the trained model that the frozen parameters are of: config.init.path"
    if init.path and init.only != ".*":
        yield f"{key} takes all parameters of that model: config.init.only should be '.*'"
    if config.train.quantization:
        yield f"{key} and config.train.quantization={config.train.quantization} exclude each other"


def _trains_head(config: Config) -> bool:
    return "class_logits" in outputs_read(trained_losses(config.loss))


def _head(config: Config) -> Iterator[str]:
    """Errors of a head and of the data that it is trained on."""
    losses, classes = trained_losses(config.loss), config.head.classes
    trains_head, num_images = _trains_head(config), config.data.num_images
    if not trains_head:
        if config.head.classes or config.head.class_file:
            yield "config.head.classes has no effect: config.loss.classification.weight=0.0"
    elif len(classes) < 2:
        yield f"config.head.classes={[*classes]} should be the names of two or more classes"
    captions = {
        options.captions: f"config.{section_key(name)}.captions={options.captions}"
        for name, options in config.data.data_sets().items()
    }
    # Labels that are numbers tell classes of one name apart; answers are names.
    if "questions" in captions and (names := duplicates(classes)):
        yield f"config.head.classes: answers cannot tell apart {', '.join(map(shown, names[:5]))}"
    if trains_head and config.head.input == "image" and "questions" in captions:
        yield f"config.head.input=image sees no questions, and {captions['questions']}"
    of_pairs = {name: loss for name, loss in losses.items() if {*loss.reads} - {"class_logits"}}
    if (of_pairs or config.head.input == "text") and "none" in captions:
        yield f"{captions['none']} is for a head that reads images, and no other loss"
    if num_images > 1 and of_pairs:
        weights = " and ".join(f"config.loss.{n}.weight={x.weight}" for n, x in of_pairs.items())
        yield f"config.data.num_images={num_images} is for a head alone: {weights} should be 0"


def _model(config: Config) -> Iterator[str]:
    model, image = config.model, config.model.image
    if image.size % image.patch:
        yield (
            f"config.model.image.size={image.size} should be a multiple of "
            f"config.model.image.patch={image.patch}"
        )
    if image.sequence_lengths:
        yield from _native_aspect(config)
    layers, every = model.text.multimodal_layers, model.text.cross_attention_every
    if layers % every:
        yield (
            f"config.model.text.multimodal_layers={layers} should be a multiple of "
            f"config.model.text.cross_attention_every={every}"
        )
    for part, of_width in (("image", "image"), ("text", "text"), ("pooler", "text")):
        yield from _head_size(config, part, of_width)
    if model.attention == "cudnn" and model.dtype == "float32":
        yield "config.model.attention=cudnn needs config.model.dtype=bfloat16"
    input_, count = config.head.input, model.pooler.num_heads
    part, width = ("text", model.text.width) if input_ == "text" else ("image", image.width)
    if _trains_head(config) and width % count:
        yield (
            f"config.model.{part}.width={width}, which config.head.input={input_} pools, "
            f"should be a multiple of config.model.pooler.num_heads={count}"
        )


def _native_aspect(config: Config) -> Iterator[str]:
    """Errors of what does not go with images that have grids of patches of their own."""
    key = f"config.model.image.sequence_lengths={[*config.model.image.sequence_lengths]}"
    if config.data.num_images > 1:
        yield (
            f"{key} takes one image an example, and config.data.num_images="
            f"{config.data.num_images}; empty lengths take several of one size"
        )
    reads = outputs_read(trained_losses(config.loss))
    decodes = reads & {"features", "unembedding"} or config.head.input == "text"
    if decodes and not config.model.pooler.caption_queries:
        yield (
            f"{key} pads images, and with config.model.pooler.caption_queries=0 the decoder would "
            "read the padding; set 1 or more queries"
        )


def _head_size(config: Config, part: str, of_width: str) -> Iterator[str]:
    """Errors of a part's number of attention heads, which divides a width."""
    width = getattr(config.model, of_width).width
    count = getattr(config.model, part).num_heads
    if width % count:
        yield (
            f"config.model.{of_width}.width={width} should be a multiple of "
            f"config.model.{part}.num_heads={count}"
        )
    elif config.model.attention == "cudnn" and (size := width // count) % 8:
        yield (
            "config.model.attention=cudnn needs heads whose size is a multiple of 8, and "
            f"config.model.{part}.num_heads={count} makes it {size}; xla takes any"
        )
