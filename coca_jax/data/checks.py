"""What can be wrong with `config.data`, told before anything is opened."""

from collections import Counter
from collections.abc import Sequence

from ml_collections import ConfigDict

from coca_jax.data import captions
from coca_jax.data.from_config import sections
from coca_jax.data.sources import FORMATS
from coca_jax.data.transforms import augment


def repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once, each once."""
    return [name for name, count in Counter(names).items() if count > 1]


def mistakes(data: ConfigDict) -> list[str]:
    """One message for each value that makes no sense; none if all is well."""
    found = []
    for name, section in sections(data).items():
        where = f"config.data.sources.{name}." if name else "config.data.train."
        found += [where + wrong for wrong in _of_section(section)]
    return found


def unnamed(data: ConfigDict) -> list[str]:
    """One message for each data set of which it is not said where or what it is."""
    return [
        f"config.{'data.sources.' + name if name else 'data.train'}.{wrong}"
        for name, section in sections(data).items()
        if (wrong := _unnamed(section))
    ]


def _unnamed(section: ConfigDict) -> str:
    if section.format != "tfds" and not section.path.strip():
        return f"path={section.path!r}: format {section.format!r} needs the files' path"
    if section.format == "tfds" and not section.split.strip():
        return f"split={section.split!r}: format 'tfds' needs a split, such as 'train'"
    if section.format == "tfds" and not (section.path or section.name).strip():
        return f"name={section.name!r}: format 'tfds' needs the data set's name"
    return ""


def _of_section(section: ConfigDict) -> list[str]:
    found = []
    if section.format not in FORMATS:
        found.append(f"format={section.format!r} should be one of {', '.join(FORMATS)}")
    if not 0 <= section.min_characters <= section.max_characters:
        least, most = section.min_characters, section.max_characters
        found.append(f"min_characters={least} should be at most max_characters={most}")
    options = (section.prompts, section.filters, section.questions)
    found += captions.mistakes(section.captions, section.template, *options)
    found += augment.mistakes(section.min_crop_area, section.color_jitter, section.randaugment)
    return found
