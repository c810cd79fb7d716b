"""The offline search for training images that the evaluations of a configuration show."""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from coca_jax.data.duplicates import find_duplicates, write_list
from coca_jax.data.from_config import sections
from coca_jax.data.sources import Source, open_source, warn_of_lost
from coca_jax.errors import UserError

# What tells a data set from others.
KEYS = ("format", "name", "split", "path", "image_keys", "text_keys")


def deduplicate(
    data: ConfigDict, evaluations: ConfigDict, name: str, distance: int, output: str | os.PathLike
) -> str:
    """Writes the list of training images that look like one of an evaluation's.

    Args:
      data: `config.data`.
      evaluations: `config.eval`.
      name: of the data set in `data.sources`; empty: `data.train`.
      distance: bits of 64 in which the images' hashes may differ.
      output: the list's file, for `data.train.exclude_list`.

    Returns:
      What was found, in words.

    Raises:
      UserError: there is no such data set, or no evaluation, or one of them cannot be read.
    """
    known = sections(data)
    if name not in known:
        raise UserError(f"data set {name!r} is not in config.data.sources ({', '.join(known)})")
    references = _references(data, evaluations)
    if not references:
        raise UserError("config.eval names no evaluation to compare the training images with")
    section = known[name]
    train = open_source(section, data.dir, data.cache_dir, data.num_images)
    warn_of_lost(f"config.data.sources.{name}" if name else "config.data.train", train)
    found = find_duplicates(train, references, distance, data.threads)
    write_list(output, found, _identity(section))
    key = f"config.data.sources.{name}" if name else "config.data.train"
    unread = found.unread[""] + found.flat[""]
    return (
        f"{len(found.index):,} of {found.size:,} training images are within {distance} bits of one "
        f"of {', '.join(references)}; {unread:,} could not be compared (unreadable, or of one "
        f"colour). Leave them out by --{key}.exclude_list={output}"
    )


def _references(data: ConfigDict, evaluations: ConfigDict) -> dict[str, Source]:
    """Each data set of the evaluations once, by the name of the first that uses it."""
    opened: dict[str, Source] = {}
    seen = []
    for name, evaluation in evaluations.items():
        identity = _identity(evaluation)
        if identity not in seen:
            seen.append(identity)
            opened[name] = open_source(evaluation, data.dir, data.cache_dir)
            warn_of_lost(f"config.eval.{name}", opened[name])
    return opened


def _identity(section: ConfigDict) -> Mapping[str, Any]:
    return {key: section.get(key) for key in KEYS if section.get(key)}
