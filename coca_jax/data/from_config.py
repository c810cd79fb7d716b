"""The data layer as a configuration describes it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from coca_jax.data.captions import CaptionMaker
from coca_jax.data.duplicates import read_list
from coca_jax.data.examples import BatchMaker, Part
from coca_jax.data.mixture import Mixture
from coca_jax.data.pipeline import TrainStream
from coca_jax.data.sources import Source, open_source, warn_of_lost
from coca_jax.data.tokenizers.kinds import Tokenizer, make_tokenizer
from coca_jax.data.transforms.augment import Augment
from coca_jax.errors import UserError

CAPTION_OPTIONS = (
    *("captions", "template", "prompts", "min_characters", "max_characters", "filters"),
    *("questions", "use_labels"),
)
AUGMENT_OPTIONS = ("min_crop_area", "flip", "color_jitter", "randaugment")


def sections(data: ConfigDict) -> dict[str, ConfigDict]:
    """What each data set of the mixture is and how it is used: `data.train`, changed by its own.

    Without `data.sources` there is one, with an empty name: `data.train` itself.
    """
    if not data.sources:
        return {"": data.train}
    found = {}
    for name, changes in data.sources.items():
        found[name] = ConfigDict(data.train.to_dict())
        with found[name].ignore_type():  # lists for tuples
            found[name].update(changes)
    return found


def weights(data: ConfigDict) -> dict[str, float]:
    """The data sets' weights in the mixture; 0 where none is given."""
    return {name: section.get("weight", 0.0) for name, section in sections(data).items()}


def open_sources(data: ConfigDict) -> dict[str, Source]:
    """Opens every data set of the mixture.

    Raises:
      UserError: names the one that cannot be opened, and why.
    """
    opened = {}
    for name, section in sections(data).items():
        try:
            opened[name] = open_source(section, data.dir, data.cache_dir, data.num_images)
        except UserError as error:
            raise UserError(f"config.{where(name)}: {error}") from error
    return opened


def tokenizer_file(data: ConfigDict) -> str:
    """The model file of the tokenizer, if its kind has one; by default that beside `data.train`.

    Raises:
      UserError: there is no path, and the data set has none beside it.
    """
    tokenizer, train = data.tokenizer, data.train
    if tokenizer.path or tokenizer.kind in ("byte", "clip"):
        return tokenizer.path
    if tokenizer.kind == "sentencepiece" and train.format == "tfds" and not data.sources:
        from coca_jax.data.sources.tfds import tokenizer_path

        return str(tokenizer_path(train.name, data.dir, train.path))
    raise UserError(
        f"config.data.tokenizer.path is needed: a tokenizer of kind {tokenizer.kind!r} has a model "
        "file (`coca data train-tokenizer` makes one), or set config.data.tokenizer.kind=byte"
    )


def make_tokenizer_from(data: ConfigDict) -> Tokenizer:
    """The tokenizer of a data config."""
    return make_tokenizer(data.tokenizer.kind, tokenizer_file(data))


def caption_texts(data: ConfigDict, most: int) -> tuple[Iterator[str], int]:
    """The captions of the first examples of the stream, such as a tokenizer is made of.

    Args:
      data: `config.data`.
      most: examples to read, if there are so many in an epoch.

    Returns:
      The texts, and of how many examples they are; those without a usable one are passed over.

    Raises:
      UserError: a data set cannot be opened, or the weights make no mixture.
    """
    opened = open_sources(data)
    for name, source in opened.items():
        warn_of_lost(f"config.{where(name)}", source)
    sources = list(opened.values())
    makers = [CaptionMaker(**_options(s, CAPTION_OPTIONS)) for s in sections(data).values()]
    sizes = {name: len(source) for name, source in zip(sections(data), sources, strict=True)}
    mixture = Mixture(sizes, weights(data), seed=0)

    def texts() -> Iterator[str]:
        for place in range(total):
            part, index, visit = mixture[place]
            try:
                record = sources[part][index]
                yield makers[part](record, visit, np.random.default_rng((0, place))).text
            except Exception:  # whatever a reader raises for a damaged record
                continue

    total = min(most, mixture.size)
    return texts(), total


def make_parts(data: ConfigDict, image_size: tuple[int, int]) -> dict[str, Part]:
    """The data sets with what becomes of their records, by name."""
    made = {}
    sources = open_sources(data)
    for name, section in sections(data).items():
        source, left_out = sources[name], ()
        if section.exclude_list:
            try:
                left_out = read_list(section.exclude_list, len(source))
            except UserError as error:
                raise UserError(f"config.{where(name)}.exclude_list: {error}") from error
        made[name] = Part(
            source,
            CaptionMaker(**_options(section, CAPTION_OPTIONS)),
            Augment(image_size, **_options(section, AUGMENT_OPTIONS)),
            left_out,
        )
    return made


def make_train_stream(
    data: ConfigDict,
    *,
    image_size: tuple[int, int],
    text_length: int,
    batch_size: int,
    seed: int,
    classes: Sequence[str] = (),
    process_index: int = 0,
    process_count: int = 1,
) -> TrainStream:
    """The training stream of a data config; `classes` are those of a head.

    Raises:
      UserError: a data set or the tokenizer cannot be opened, the weights make no mixture, or there
        are more processes than examples.
    """
    parts = make_parts(data, image_size)
    _check_classes(data, parts, classes)
    sizes = {name: len(part.source) for name, part in parts.items()}
    mixture = Mixture(sizes, weights(data), seed)
    if mixture.size < process_count:
        raise UserError(
            f"config.data: {mixture.size} examples are fewer than the {process_count} processes "
            "that would share them; start fewer processes"
        )
    return TrainStream(
        mixture,
        BatchMaker(
            list(parts.values()),
            make_tokenizer_from(data),
            image_size=image_size,
            text_length=text_length,
            num_images=data.num_images,
            blank_images=data.blank_images,
            classes=classes,
        ),
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        threads=data.threads,
        workers=data.workers,
    )


def _check_classes(data: ConfigDict, parts: dict[str, Part], classes: Sequence[str]) -> None:
    labelled = {name: s for name, s in sections(data).items() if s.use_labels}
    if classes and not labelled:
        raise UserError(
            "config.data: no data set is `use_labels`, and a head learns from these only"
        )
    for name, section in labelled.items():
        if classes and section.captions != "questions":
            check_classes(f"config.{where(name)}", parts[name].source.class_names, classes)


def check_classes(where: str, known: Sequence[str], classes: Sequence[str]) -> None:
    """Refuses a head whose classes are not those of data with numbers for labels.

    Args:
      where: the data are, for the message.
      known: names of their classes; none if they have no names.
      classes: the head's. Other names for as many classes are taken to be in the same order.

    Raises:
      UserError: they are not as many, or the same in another order.
    """
    if not known or list(known) == list(classes):
        return
    differ = [(a, b) for a, b in zip(known, classes, strict=False) if a != b]
    if len(known) != len(classes):
        found = f"{len(known)} classes: {', '.join(known[:3])}, ..."
    elif set(known) == set(classes):
        found = f"the same in another order, such as {differ[0][0]!r} where {differ[0][1]!r} is"
    else:
        return
    raise UserError(f"config.head.classes are {len(classes)}, and {where} has {found}")


def where(name: str) -> str:
    """The section of the configuration that a data set of the mixture is in."""
    return f"data.sources.{name}" if name else "data.train"


def _options(section: ConfigDict, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: section[name] for name in names}
