"""Errors in `config.data`, found before anything is opened."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from coca_jax.data import captions
from coca_jax.data.options import TrainDataConfig, data_config
from coca_jax.data.sources import missing_option
from coca_jax.data.transforms import augment


def repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once, each once."""
    return [name for name, count in Counter(names).items() if count > 1]


def mistakes(data: Any) -> list[str]:
    """Messages on values of `config.data` that do not fit together, each with its key.

    Args:
      data: `config.data`, as options or as it stands; each value is allowed by itself.
    """
    return [
        f"config.{_section(name)}.{message}"
        for name, options in data_config(data).data_sets().items()
        for message in _option_errors(options)
    ]


def unnamed(data: Any) -> list[str]:
    """A message for each data set of `config.data` that lacks its path, name or split."""
    return [
        f"config.{_section(name)}.{message}"
        for name, options in data_config(data).data_sets().items()
        if (message := missing_option(options))
    ]


def _section(name: str) -> str:
    return f"data.sources.{name}" if name else "data.train"


def _option_errors(options: TrainDataConfig) -> Iterator[str]:
    if not 0 <= options.min_characters <= options.max_characters:
        least, most = options.min_characters, options.max_characters
        yield f"min_characters={least} should be at most max_characters={most}"
    caption_options = (options.prompts, options.filters, options.questions)
    yield from captions.mistakes(options.captions, options.template, *caption_options)
    yield from augment.mistakes(options.min_crop_area, options.color_jitter, options.randaugment)
