"""TFDS data sets: by name in a data folder, or by the folder that one of them is in."""

import re
import shlex
from pathlib import Path
from typing import Any

from coca_jax.data.sources import Context, SourceConfig, needs, one_path
from coca_jax.data.sources.array_record import ArrayRecordSource
from coca_jax.data.sources.base import what_reads
from coca_jax.data.sources.tf_example import IMAGE_KEYS
from coca_jax.errors import UserError
from coca_jax.fields import near
from coca_jax.io.paths import normalize


class TfdsSource(ArrayRecordSource):
    """One split of a prepared TFDS data set; images stay as encoded bytes."""


@needs("split", "path or name")
def open_tfds(options: SourceConfig, context: Context) -> TfdsSource:
    """The format `tfds`; see `tfds_source`."""
    return tfds_source(options.name, options.split, context.data_dir, one_path(options))


def tfds_source(
    name: str, split: str, data_dir: str | None = None, path: str | None = None
) -> TfdsSource:
    """Opens a split of a prepared data set.

    Args:
      name: of the data set, as TFDS has it: "name", "name/config", "name:1.0.0".
      split: such as "train", "train[:90%]".
      data_dir: where TFDS data sets lie; None or empty is TFDS's default folder.
      path: the folder of the data set itself, with its dataset_info.json, instead of a name.

    Raises:
      UserError: the data set is not prepared, has no such split or no images, or is stored in
        a format without random access.
    """
    info = _builder(name, data_dir, path).info
    name = path or name
    if not {key.split("/")[0] for key in IMAGE_KEYS} & {*info.features}:
        raise UserError(f"data set {name!r} has no feature 'image', only {[*info.features]}")
    _read_as_array_record(info, name)
    try:
        parts = info.splits[split].file_instructions
    except ValueError as error:
        splits = sorted(info.splits)
        raise UserError(f"data set {name!r} has no split {split!r}, only {splits}") from error
    if not parts:
        raise UserError(f"split {split!r} of data set {name!r} is empty")
    return TfdsSource(parts, _class_names(info.features))


def tokenizer_path(name: str, data_dir: str | None = None, path: str | None = None) -> Path:
    """The path of the tokenizer that `coca data prepare` trains on a data set."""
    return Path(_builder(name, data_dir, path).data_path) / "tokenizer.model"


def _class_names(features: Any) -> list[str]:
    """The names of `label`, or of each of `labels`."""
    features = dict(features)
    feature = features.get("label", features.get("labels"))
    return list(getattr(getattr(feature, "feature", feature), "names", None) or [])


def _read_as_array_record(info: Any, name: str) -> None:
    """Chooses ArrayRecord, which has random access, of the formats that a data set is stored in."""
    formats = {form.value: form for form in info.available_file_formats()}
    if "array_record" not in formats:
        stored = ", ".join(sorted(formats)) or "no known format"
        raise UserError(
            f"data set {name!r} is stored as {stored}, which has no random access; "
            "prepare it with TFDS in another folder, with file_format='array_record'"
        )
    if info.file_format != formats["array_record"]:
        form = formats["array_record"]
        info.set_file_format(form, override=True, override_if_initialized=True)


def _builder(name: str, data_dir: str | None, path: str | None = None) -> Any:
    from tensorflow_datasets.core import read_only_builder, registered

    data_dir, path = (given and normalize(given) for given in (data_dir, path))
    if path:
        return _builder_of_folder(path)
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir or None)
    except registered.DatasetNotFoundError as error:
        where = f" in {data_dir}" if data_dir else ""
        raise UserError(
            f"data set {name!r} is not prepared{where}; {_how(name, data_dir)}"
        ) from error
    except ValueError as error:  # no name of a data set, or one found in several places
        raise UserError(f"data set {name!r} cannot be opened: {error}") from error


def _builder_of_folder(path: str) -> Any:
    from google.protobuf.json_format import ParseError
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_directory(path)
    except OSError as error:
        raise UserError(
            f"{path} is not a folder of a TFDS data set (dataset_info.json){what_reads([path])}"
        ) from error
    except (ValueError, ParseError) as error:
        raise UserError(f"{path}/dataset_info.json is damaged: {error}") from error


def _how(name: str, data_dir: str | None) -> str:
    """A sentence on how to prepare a data set where it is looked for."""
    from coca_jax.datasets import BUILDERS

    plain = re.split("[/:]", name)[0]
    if plain not in BUILDERS:
        there = f"data_dir={data_dir!r}, " if data_dir else ""
        return (
            "prepare it with TFDS: "
            f"tfds.builder({name!r}, {there}file_format='array_record').download_and_prepare()"
            f"{near(plain, BUILDERS)}"
        )
    command = f"coca data prepare {plain}"
    if data_dir:
        command += f" --data-dir {shlex.quote(data_dir)}"
    if plain == name:
        return f"run `{command}`"
    return f"`{command}` prepares {plain}:{BUILDERS[plain].VERSION}"
