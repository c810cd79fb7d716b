"""The offline search for training images that the evaluations of a configuration show."""

import os
from typing import Any

from coca_jax.data.exclude_list import write_list
from coca_jax.data.from_config import section_key
from coca_jax.data.options import DataConfig, data_config
from coca_jax.data.sources import Context, Source, SourceConfig, open_source, warn_of_lost
from coca_jax.data_tools.image_hashes import find_duplicates
from coca_jax.errors import UserError


def deduplicate(
    data: Any, evaluations: Any, name: str, distance: int, output: str | os.PathLike
) -> str:
    """Writes the list of training images that look like an image of an evaluation.

    Args:
      data: `config.data`, as options or as it stands in the configuration.
      evaluations: the sections of `config.eval`, by name.
      name: of the data set in `data.sources`; empty: `data.train`.
      distance: bits of 64 in which the images' hashes may differ.
      output: the list's file, for `data.train.exclude_list`.

    Returns:
      A sentence on what was found.

    Raises:
      UserError: there is no such data set, or no evaluation, or one of them cannot be read.
    """
    data = data_config(data)
    data_sets = data.data_sets()
    if name not in data_sets:
        raise UserError(f"data set {name!r} is not in config.data.sources ({', '.join(data_sets)})")
    references = _references(data, evaluations)
    if not references:
        raise UserError("config.eval names no evaluation to compare the training images with")
    key, options = f"config.{section_key(name)}", data_sets[name]
    train = open_source(options, Context(data.dir, data.cache_dir, data.num_images))
    warn_of_lost(key, train)
    duplicates = find_duplicates(train, references, distance, data.threads)
    description = options.identity() | {"records": duplicates.size}
    write_list(output, duplicates.rows(), description)
    unread = duplicates.unread[""] + duplicates.flat[""]
    return (
        f"{len(duplicates.index):,} of {duplicates.size:,} training images are within {distance} "
        f"bits of one of {', '.join(references)}; {unread:,} could not be compared (unreadable, or "
        f"of one color). Leave them out by --{key}.exclude_list={output}"
    )


def _references(data: DataConfig, evaluations: Any) -> dict[str, Source]:
    """Each data set of the evaluations once, by the name of the first that uses it."""
    opened: dict[str, Source] = {}
    seen = []
    for name, evaluation in evaluations.items():
        options = SourceConfig.of(evaluation)
        if options.identity() not in seen:
            seen.append(options.identity())
            opened[name] = open_source(options, Context(data.dir, data.cache_dir))
            warn_of_lost(f"config.eval.{name}", opened[name])
    return opened
