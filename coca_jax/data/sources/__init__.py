"""Sources: random access to the records of a data set, one file a format."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from coca_jax.data.sources.base import Note, Record, Source, warn_of_lost
from coca_jax.errors import UserError
from coca_jax.io.files import read_lines
from coca_jax.io.messages import counted
from coca_jax.io.paths import normalize

FORMATS = ("tfds", "array_record", "webdataset", "folder")


def open_source(
    section: Mapping[str, Any] | ConfigDict,
    data_dir: str = "",
    cache_dir: str = "",
    num_images: int = 1,
) -> Source:
    """Opens what a section of the configuration, such as `data.train`, names.

    Args:
      section: `format`, one of FORMATS ("tfds" if absent); `name` and `split`, of a TFDS data set;
        `image_keys` and `text_keys`, of WebDataset tars;
        `path`, of anything else; `class_names`, a file with a name a line, if there is one.
      data_dir: where TFDS data sets lie; empty: TFDS's default folder.
      cache_dir: for the indices of shards in a folder that cannot be written to.
      num_images: images of an example, if the section does not say; above 1, folders of frames
        are looked for.

    Raises:
      UserError: the data set is not there, or not what its format says.
    """
    form, path = section.get("format", "tfds"), section.get("path", "")
    path = normalize(path) if isinstance(path, str) and path else path
    if form not in FORMATS:
        raise UserError(f"format {form!r} of a data set should be one of {', '.join(FORMATS)}")
    if form != "tfds" and not path:
        raise UserError(f"a data set of format {form!r} needs the path of its files")
    if isinstance(path, str) and path.lower().endswith(".parquet"):
        raise UserError(f"{path} is a Parquet file; `coca data convert` makes it a TFDS data set")
    if form == "tfds":
        from coca_jax.data.sources.tfds import tfds_source

        source = tfds_source(section.get("name", ""), section["split"], data_dir, path)
    elif form == "array_record":
        from coca_jax.data.sources.array_record import array_record_source

        source = array_record_source(path)
    elif form == "webdataset":
        from coca_jax.data.sources.webdataset import webdataset_source

        source = webdataset_source(
            path,
            cache_dir,
            section.get("split", ""),
            section.get("image_keys", ()),
            section.get("text_keys", ()),
        )
    else:
        from coca_jax.data.sources.folder import folder_source

        clips = section.get("num_images", num_images) > 1
        source = folder_source(path, section.get("split", ""), clips)
    if file := section.get("class_names", ""):
        names = read_lines(file)
        if source.class_names and len(names) != len(source.class_names):
            raise UserError(
                f"{file} names {counted(len(names), 'classes')}, and the data set has "
                f"{len(source.class_names)}: {', '.join(source.class_names[:5])}, ..."
            )
        source.class_names = names
    return source


__all__ = ["FORMATS", "Note", "Record", "Source", "open_source", "warn_of_lost"]
