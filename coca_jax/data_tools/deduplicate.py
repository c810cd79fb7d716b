"""Searches offline for training images that also occur in a configuration's evaluations."""

import os
from typing import Any

from coca_jax.data.exclude_list import write_list
from coca_jax.data.from_config import section_key
from coca_jax.data.options import DataConfig, TrainDataConfig, data_config
from coca_jax.data.sources import Context, Source, SourceConfig, open_source, warn_of_lost
from coca_jax.data_tools.image_hashes import find_duplicates
from coca_jax.errors import UserError
from coca_jax.io.files import require_writable


def deduplicate(
    data: Any, evaluations: Any, name: str, distance: int, output: str | os.PathLike
) -> str:
    """Lists the training images that look like an image of an evaluation.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      evaluations: the sections of `config.eval`, by name.
      name: the name of the data set in `data.sources`; empty: `data.train`.
      distance: the number of bits, of 64, in which two hashes may differ.
      output: the file to write, for `data.train.exclude_list`.

    Returns:
      A sentence with the numbers of duplicates and of images that were not compared.

    Raises:
      UserError: the data set or an evaluation is missing or cannot be read, or the file cannot be
        written.
    """
    require_writable(output)
    data = data_config(data)
    references = _references(data, evaluations)
    if not references:
        raise UserError("config.eval has no evaluation to compare the training images with")
    key, options, train = open_train(data, name)
    duplicates = find_duplicates(train, references, distance, data.threads)
    description = options.identity() | {"records": duplicates.size}
    write_list(output, duplicates.rows(), description)
    unread = duplicates.unread[""] + duplicates.flat[""]
    return (
        f"{len(duplicates.index):,} of {duplicates.size:,} training images are within {distance} "
        f"bits of an image of {', '.join(references)}; {unread:,} could not be compared "
        f"(unreadable, or of one color). To leave the duplicates out: --{key}.exclude_list={output}"
    )


def open_train(data: DataConfig, name: str) -> tuple[str, TrainDataConfig, Source]:
    """Opens a data set that is trained on: its key in the configuration, its options, its records.

    Args:
      data: options of the data.
      name: of the data set in `data.sources`; empty: `data.train`.

    Raises:
      UserError: there is no such data set, or it cannot be opened.
    """
    data_sets = data.data_sets()
    if name not in data_sets:
        raise UserError(f"data set {name!r} is not in config.data.sources ({', '.join(data_sets)})")
    key, options = f"config.{section_key(name)}", data_sets[name]
    context = Context(data.dir, data.cache_dir, data.num_images)
    return key, options, _open(key, options, context)


def _references(data: DataConfig, evaluations: Any) -> dict[str, Source]:
    """Each data set of the evaluations once, by the name of the first evaluation that uses it."""
    opened: dict[str, Source] = {}
    seen = []
    for name, evaluation in evaluations.items():
        options = SourceConfig.of(evaluation)
        if options.identity() not in seen:
            seen.append(options.identity())
            context = Context(data.dir, data.cache_dir)
            opened[name] = _open(f"config.eval.{name}", options, context)
    return opened


def _open(key: str, options: SourceConfig, context: Context) -> Source:
    """Opens the data set of a section, and warns of what is lost of it; errors name the section."""
    try:
        source = open_source(options, context)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    warn_of_lost(key, source)
    return source
