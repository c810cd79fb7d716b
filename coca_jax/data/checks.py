"""What can be wrong with `config.data`, told before anything is opened."""

from ml_collections import ConfigDict

from coca_jax.data import augment, captions
from coca_jax.data.from_config import sections
from coca_jax.data.sources import FORMATS


def mistakes(data: ConfigDict) -> list[str]:
    """One message for each value that makes no sense; none if all is well."""
    found = []
    for name, section in sections(data).items():
        where = f"config.data.sources.{name}." if name else "config.data.train."
        found += [where + wrong for wrong in _of_section(section)]
    return found


def _of_section(section: ConfigDict) -> list[str]:
    found = []
    if section.format not in FORMATS:
        found.append(f"format={section.format!r} should be one of {', '.join(FORMATS)}")
    elif section.format != "tfds" and not section.path:
        found.append(f"path is empty; format {section.format!r} needs the files' path")
    for key in ("image_keys", "text_keys"):
        names = section.get(key, ())
        if isinstance(names, str) or not all(n and isinstance(n, str) for n in names):
            found.append(f"{key}={names!r} should be extensions, such as ('input.jpg',)")
    if not 0 <= section.min_characters <= section.max_characters:
        least, most = section.min_characters, section.max_characters
        found.append(f"min_characters={least} should be at most max_characters={most}")
    options = (section.prompts, section.filters, section.questions)
    found += captions.mistakes(section.captions, section.template, *options)
    found += augment.mistakes(section.min_crop_area, section.color_jitter, section.randaugment)
    return found
