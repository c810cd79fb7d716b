"""The training stream, and its parts, as the section `data` of a configuration describes them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.captions import CaptionMaker
from coca_jax.data.examples import BatchMaker, DataSet
from coca_jax.data.exclude_list import contains, read_list
from coca_jax.data.mixture import Mixture
from coca_jax.data.neighborhoods import read_order
from coca_jax.data.options import DataConfig, TrainDataConfig, data_config, section_key
from coca_jax.data.packing import packing_errors
from coca_jax.data.pipeline import TrainStream
from coca_jax.data.results import Results
from coca_jax.data.sources import Context, Source, open_source, warn_of_lost
from coca_jax.data.sources.joined import JoinedSource
from coca_jax.data.tokenizers import Tokenizer, make_tokenizer, tokenizers
from coca_jax.data.transforms.augment import Augment
from coca_jax.data.transforms.images import COVERING, Resizing
from coca_jax.errors import UserError
from coca_jax.patches import Target

CAPTION_OPTIONS = (
    *("captions", "template", "prompts", "min_characters", "max_characters", "filters"),
    *("questions", "use_labels", "group", "negatives"),
)
AUGMENT_OPTIONS = ("min_crop_area", "flip", "color_jitter", "randaugment")


def sections(data: Any) -> Mapping[str, TrainDataConfig]:
    """The data sets of the mixture by name; `data.train` alone has the empty name.

    Args:
      data: `config.data`, as options or as a section of the configuration.
    """
    return data_config(data).data_sets()


def weights(data: DataConfig) -> dict[str, float]:
    """The data sets' weights in the mixture; 0 where none is given."""
    return {name: getattr(options, "weight", 0.0) for name, options in data.data_sets().items()}


def open_sources(data: DataConfig) -> dict[str, Source]:
    """Opens every data set of the mixture.

    Raises:
      UserError: names the one that cannot be opened, and why.
    """
    opened = {}
    context = Context(data.dir, data.cache_dir, data.num_images)
    for name, options in data.data_sets().items():
        try:
            source = open_source(options, context)
            _require_random_access(source, options)
            opened[name] = _joined(source, options, data.cache_dir)
        except UserError as error:
            raise UserError(f"config.{section_key(name)}: {error}") from error
    return opened


def _require_random_access(source: Source, options: TrainDataConfig) -> None:
    if getattr(source, "in_order", False):
        raise UserError(
            f"format={options.format!r} is read in order, and training reads at random: "
            "`coca data convert` makes a data set of Parquet files"
        )


def _joined(source: Source, options: TrainDataConfig, cache_dir: str) -> Source:
    """The source with the results that `captions_from` and `fields_from` name."""
    if not options.captions_from and not options.fields_from:
        return source
    captions = Results(options.captions_from, cache_dir) if options.captions_from else None
    fields = [Results(folder, cache_dir) for folder in options.fields_from]
    return JoinedSource(source, captions, fields, options.keep_captions)


def tokenizer_file(data: Any) -> str:
    """The tokenizer's file; by default the one next to `data.train`. Empty if it needs none.

    Args:
      data: `config.data`, as options or as a section of the configuration.

    Raises:
      UserError: the tokenizer needs a file, none is named, and none was prepared.
    """
    data = data_config(data)
    tokenizer, train = data.tokenizer, data.train
    if tokenizer.path or not tokenizers[tokenizer.kind].file_name:
        return tokenizer.path
    if tokenizer.kind == "sentencepiece" and train.format == "tfds" and not data.sources:
        from coca_jax.data.sources.tfds import tokenizer_path

        try:
            return str(tokenizer_path(train.name, data.dir, train.path))
        except UserError as error:
            raise UserError(f"config.data.train: {error}") from error
    raise UserError(
        f"config.data.tokenizer.path is empty: tokenizer {tokenizer.kind!r} needs a file "
        "(`coca data train-tokenizer` makes one); or set config.data.tokenizer.kind=byte"
    )


def make_tokenizer_from(data: Any) -> Tokenizer:
    """The tokenizer that `config.data`, as options or as it stands, describes.

    Raises:
      UserError: it has no file, or one that cannot be read.
    """
    data = data_config(data)
    file = tokenizer_file(data)
    try:
        return make_tokenizer(data.tokenizer.kind, file)
    except UserError as error:
        raise UserError(f"config.data.tokenizer: {error}") from error


def caption_texts(data: Any, most: int) -> tuple[Iterator[str], int]:
    """Captions of random records of the mixture, for training a tokenizer.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      most: the number of examples to read, of one epoch at most.

    Returns:
      The texts, and the number of examples that are read for them; those without a usable caption,
      and those that `exclude_list` names, give no text.

    Raises:
      UserError: a data set cannot be opened, its `exclude_list` cannot be read, or the weights make
        no mixture.
    """
    data = data_config(data)
    opened = open_sources(data)
    for name, source in opened.items():
        warn_of_lost(f"config.{section_key(name)}", source)
    sources = list(opened.values())
    options = data.data_sets()
    makers = [CaptionMaker(**_values(section, CAPTION_OPTIONS)) for section in options.values()]
    excluded = [_lists(n, section, len(opened[n])).excluded for n, section in options.items()]
    sizes = {name: len(source) for name, source in opened.items()}
    mixture = Mixture(sizes, weights(data), seed=0)

    def texts() -> Iterator[str]:
        for number in range(total):
            source, index, epoch = mixture[number]
            if contains(excluded[source], index):
                continue
            try:
                record = sources[source][index]
                yield makers[source](record, epoch, np.random.default_rng((0, number))).text
            except Exception:  # whatever a reader raises for a damaged record
                continue

    total = min(most, mixture.size)
    return texts(), total


def make_data_sets(
    data: DataConfig, image_size: Target, resizing: Resizing = COVERING
) -> dict[str, DataSet]:
    """Opens the data sets of the mixture, with what becomes of their records; by name.

    Raises:
      UserError: names the one that cannot be opened, or whose `exclude_list` or `neighborhoods`
        cannot be read.
    """
    data_sets = {}
    sources = open_sources(data)
    for name, options in data.data_sets().items():
        lists = _lists(name, options, len(sources[name]))
        data_sets[name] = DataSet(
            sources[name],
            CaptionMaker(**_values(options, CAPTION_OPTIONS), data_set=name),
            Augment(image_size, **_values(options, AUGMENT_OPTIONS), resizing=resizing),
            **lists._asdict(),
        )
    return data_sets


class _Lists(NamedTuple):
    """Numbers of a data set's records; empty: all are used, and drawn at random."""

    excluded: Int64[np.ndarray, " m"] | tuple[()] = ()
    order: Int64[np.ndarray, " n"] | tuple[()] = ()


def _lists(name: str, options: TrainDataConfig, records: int) -> _Lists:
    """Reads the files `exclude_list` and `neighborhoods` of a data set with so many records."""
    lists = {}
    keys = {"excluded": ("exclude_list", read_list), "order": ("neighborhoods", read_order)}
    for field, (key, read) in keys.items():
        try:
            if path := getattr(options, key):
                lists[field] = read(path, records)
        except UserError as error:
            raise UserError(f"config.{section_key(name)}.{key}: {error}") from error
    return _Lists(**lists)


def make_held_out_captions(data: Any) -> CaptionMaker:
    """The maker of the texts of held-out examples: as those of `data.train`, with nothing filtered.

    Of several captions of an image it takes the first, however short or long.

    Args:
      data: `config.data`, as options or as a section of the configuration.
    """
    train = data_config(data).train
    names = ("template", "prompts", "questions", "use_labels", "group", "negatives")
    options = _values(train, names)
    several = train.captions in ("sampled", "all")
    captions = "first" if several else train.captions
    return CaptionMaker(captions=captions, max_characters=sys.maxsize, **options)


def make_train_stream(
    data: Any,
    *,
    image_size: Target,
    text_length: int,
    batch_size: int,
    seed: int,
    sequence_lengths: Sequence[int] = (),
    classes: Sequence[str] = (),
    resizing: Resizing = COVERING,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainStream:
    """The training stream that a configuration describes.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      image_size: height and width in pixels, or a budget of patches.
      text_length: ids of a text, bos and eos included.
      batch_size: examples of the global batch, of all processes together; with several
        `sequence_lengths`, of a step of the longest.
      seed: of the order and of all random draws.
      sequence_lengths: most patches of an image, of which each step has one; see `BatchSizes`.
      classes: names of a head's classes; none: there is no head.
      resizing: of images that are not cropped at random.
      process_index: whose rows of the global batch to make.
      process_count: the number of processes, which share the batch equally.

    Raises:
      UserError: a data set or the tokenizer cannot be opened, the weights make no mixture, there
        are more processes than examples, or packing does not fit a process's batch.
    """
    data = data_config(data)
    data_sets = make_data_sets(data, image_size, resizing)
    _check_classes(data, data_sets, classes)
    mixture = _make_mixture(data, data_sets, seed)
    _check_share(data, mixture, text_length, batch_size, process_count)
    return TrainStream(
        mixture,
        BatchMaker(
            list(data_sets.values()),
            make_tokenizer_from(data),
            image_size=image_size,
            text_length=text_length,
            num_images=data.num_images,
            blank_images=data.blank_images,
            packing=data.packing,
            classes=classes,
            negatives=data.has_negatives,
        ),
        batch_sizes=BatchSizes(batch_size, tuple(sequence_lengths), seed),
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        threads=data.threads,
        workers=data.workers,
    )


def _check_share(
    data: DataConfig, mixture: Mixture, text_length: int, batch_size: int, process_count: int
) -> None:
    """Makes sure that each process gets examples, and as many as packing needs."""
    if mixture.size < process_count:
        raise UserError(
            f"config.data: {mixture.size} examples are fewer than the {process_count} processes "
            "that would share them; start fewer processes"
        )
    share = batch_size // process_count
    if messages := list(packing_errors(data.packing, text_length, share, "a process")):
        raise UserError(messages[0])


def _make_mixture(data: DataConfig, data_sets: dict[str, DataSet], seed: int) -> Mixture:
    sizes = {name: len(data_set.source) for name, data_set in data_sets.items()}
    neighborhoods = {
        name: (data_set.order, data.data_sets()[name].neighborhood_size)
        for name, data_set in data_sets.items()
        if len(data_set.order)
    }
    return Mixture(sizes, weights(data), seed, neighborhoods)


def _check_classes(data: DataConfig, data_sets: dict[str, DataSet], classes: Sequence[str]) -> None:
    labeled = {name: s for name, s in data.data_sets().items() if s.use_labels}
    if classes and not labeled:
        raise UserError(
            "config.data: use_labels is False for every data set, and a head learns from labels"
        )
    for name, options in labeled.items():
        if classes and options.captions != "questions":
            check_classes(
                f"config.{section_key(name)}", data_sets[name].source.class_names, classes
            )


def check_classes(where: str, known: Sequence[str], classes: Sequence[str]) -> None:
    """Refuses a head whose classes are not those of data with numbers for labels.

    Args:
      where: the key of the data's section, for the message.
      known: names of the data's classes; none if they have no names.
      classes: the head's. Other names for as many classes are taken to be in the same order.

    Raises:
      UserError: the numbers of classes differ, or their order.
    """
    if not known or list(known) == list(classes):
        return
    if len(known) != len(classes):
        shown = ", ".join(known[:3]) + ", ..." * (len(known) > 3)
        actual = f"{len(known)} classes: {shown}"
    elif set(known) == set(classes):
        first, second = next(
            pair for pair in zip(known, classes, strict=True) if pair[0] != pair[1]
        )
        actual = f"the same in another order, such as {first!r} in place of {second!r}"
    else:
        return
    raise UserError(f"config.head.classes are {len(classes)}, and {where} has {actual}")


def _values(options: TrainDataConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}
