"""Sources: random access to the records of a data set; a file for each format.

A format is a function of (SourceConfig, Context) that returns a `Source`. A user's own is
registered by the configuration file that uses it:

    @sources.register("my_format")
    def open_mine(options, context):
        return MySource(options.path)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from coca_jax import fields
from coca_jax.data.sources.base import Note, Record, Shard, Source, warn_of_lost
from coca_jax.errors import UserError
from coca_jax.fields import field
from coca_jax.io import http
from coca_jax.io.files import read_lines
from coca_jax.io.messages import counted
from coca_jax.io.paths import is_pattern, normalize
from coca_jax.registry import Registry

sources: Registry = Registry(
    "data format",
    {
        "tfds": "coca_jax.data.sources.tfds:open_tfds",
        "array_record": "coca_jax.data.sources.array_record:open_array_record",
        "webdataset": "coca_jax.data.sources.webdataset:open_webdataset",
        "folder": "coca_jax.data.sources.folder:open_folder",
        "parquet": "coca_jax.data.sources.parquet:open_parquet",
    },
)

_EXTENSIONS = fields.several(
    fields.text(empty=False), distinct=True, wanted="extensions, such as ('input.jpg',)"
)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Options that select records, for training and for evaluations."""

    format: str = field(
        "tfds",
        "How the data set is stored: `tfds`, `webdataset`, `array_record`, `folder`, `parquet` "
        "(which training cannot read), or a format that the configuration file registers.",
        fields.registered(sources),
    )
    name: str = field("", "Name of a TFDS data set.", fields.text())
    split: str = field(
        "", "Split of a TFDS data set, or of a folder that holds several.", fields.text()
    )
    path: str | Sequence[str] = field(
        "",
        "Files or URLs; of WebDataset, Parquet and ArrayRecord with `{0000..0099}` and `*`. Of a "
        "TFDS data set its folder, instead of a name.",
        fields.path(),
        resumable=True,
    )
    image_keys: Sequence[str] = field(
        (),
        "Extensions of the members of a WebDataset sample that are its image, such as "
        '`("input.jpg",)`; the first that it has is read. Of Parquet: the column of images. '
        "Empty: the known ones.",
        _EXTENSIONS,
    )
    text_keys: Sequence[str] = field(
        (),
        "Extensions of the members of a WebDataset sample that are its text; the first that it "
        "has is read. Of Parquet: the columns of captions. Empty: `txt`, or the known ones.",
        _EXTENSIONS,
    )
    class_names: str = field(
        "",
        "A file of class names, one a line, for labels that are numbers.",
        fields.path(),
        resumable=True,
    )

    @classmethod
    def of(cls, section: Any) -> "SourceConfig":
        """The part of a section, a mapping or larger options, that says which data it names."""
        names = [f.name for f in dataclasses.fields(SourceConfig)]
        if dataclasses.is_dataclass(section):
            return cls(**{name: getattr(section, name) for name in names})
        return cls(**{name: section[name] for name in names if name in section})

    def identity(self) -> dict[str, Any]:
        """The options that tell these records from others, without those that are empty."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(SourceConfig)}
        return {name: v for name, v in values.items() if v and name != "class_names"}


class Context(NamedTuple):
    """The options of the whole configuration that a source may need."""

    data_dir: str = ""  # of TFDS data sets; empty: TFDS's own default
    cache_dir: str = ""  # for what is made of files in read-only folders; empty: the user's cache
    num_images: int = 1  # of an example; above 1, folders of frames are looked for


def needs(*options: str) -> Callable[[Callable], Callable]:
    """A decorator that says which options a format cannot do without: "path", "path or name"."""

    def mark(format_function: Callable) -> Callable:
        format_function.needs = options
        return format_function

    return mark


def missing_option(options: SourceConfig) -> str:
    """The first option that the format needs and that is empty, as a message; empty: none is."""
    for need in getattr(sources[options.format], "needs", ()):
        names = need.split(" or ")
        if not any(str(getattr(options, name)).strip("(), ") for name in names):
            value = getattr(options, names[-1])
            return f"{names[-1]}={value!r}: format {options.format!r} needs a {need}"
    return ""


def one_path(options: SourceConfig) -> str:
    """The path of a format that reads one file or folder; empty: none is given.

    Raises:
      UserError: there are several, or it is a pattern of several.
    """
    path = options.path
    if not isinstance(path, str) or is_pattern(path):
        shown = ", ".join(map(http.shown, [path] if isinstance(path, str) else path))
        raise UserError(
            f"path={shown!r}: format {options.format!r} reads one file or folder; patterns and "
            "lists of files are for webdataset, parquet and array_record"
        )
    return path


def open_source(options: SourceConfig, context: Context | None = None) -> Source:
    """Opens the data set that a section of the configuration, such as `data.train`, names.

    Args:
      options: which data set it is.
      context: folders, and the number of images of an example; None: the defaults.

    Raises:
      UserError: the data set is not there, is not what its format says, or has another number of
        classes than `class_names`.
    """
    if isinstance(options.path, str) and options.path:
        options = dataclasses.replace(options, path=normalize(options.path))
    open_format = sources[options.format]
    if message := missing_option(options):
        raise UserError(message)
    source = open_format(options, context or Context())
    if options.class_names:
        source.class_names = _read_class_names(options.class_names, source)
    return source


def _read_class_names(file: str, source: Source) -> list[str]:
    names = read_lines(file)
    if source.class_names and len(names) != len(source.class_names):
        shown = ", ".join(source.class_names[:5]) + ", ..." * (len(source.class_names) > 5)
        raise UserError(
            f"{file} names {counted(len(names), 'classes')}, and the data set has "
            f"{len(source.class_names)}: {shown}"
        )
    return names


__all__ = [
    "Context",
    "Note",
    "Record",
    "Shard",
    "Source",
    "SourceConfig",
    "missing_option",
    "needs",
    "one_path",
    "open_source",
    "sources",
    "warn_of_lost",
]
