"""The columns of Parquet files: which hold images, captions and fields, by types and names."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from coca_jax.errors import UserError
from coca_jax.io import files, http
from coca_jax.io.messages import cause

CAPTION_NAMES = ("caption", "captions", "text", "txt", "title")
URL_NAMES = ("url", "urls", "image_url", "img_url", "link")
PATH_NAMES = ("image", "images", "file_name", "filename", "filepath", "image_path", "path")


class Columns(NamedTuple):
    """The role of each column of a file."""

    image: str  # holds encoded files, or structs with them as `bytes`
    captions: dict[str, str]  # columns of texts or of lists of texts, with their `_kind`
    fields: dict[str, str]  # all other columns that are kept, with their `_kind`
    class_names: dict[str, list[str]]  # the names of classes, for fields that hold class numbers
    left_out: tuple[str, ...]  # columns of types that an example cannot hold
    unsigned: tuple[str, ...] = ()  # fields of numbers that are stored as digits in a text


class Footer(NamedTuple):
    """The metadata at the end of a file."""

    schema: Any  # pyarrow's
    rows: list[int]  # of each row group
    unsigned: frozenset[str]  # columns of numbers that may be 2**63 or more


def read_footer(path: str) -> Footer:
    """Reads the schema of a file and the sizes of its row groups, but no rows.

    Raises:
      UserError: the file is missing or not a Parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with files.open_binary(path) as file, parquet.ParquetFile(file) as opened:
            metadata = opened.metadata
            rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            return Footer(opened.schema_arrow, rows, frozenset(_unsigned(metadata)))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{http.shown(path)} cannot be read as a Parquet file: {cause(error, path)}"
        ) from error


def _unsigned(metadata: Any) -> Iterator[str]:
    """Columns of uint64 whose values may be too large for int64, by the file's statistics."""
    for i in range(metadata.num_columns):
        column = metadata.schema.column(i)
        if "bitWidth=64, isSigned=false" not in str(column.logical_type):
            continue
        parts = [metadata.row_group(group).column(i) for group in range(metadata.num_row_groups)]
        if not all(map(_fits_int64, parts)):
            yield column.path.split(".")[0]


def _fits_int64(part: Any) -> bool:
    statistics = part.statistics
    if statistics is None or not statistics.has_min_max:
        return statistics is not None and statistics.null_count == part.num_values
    return statistics.max < 2**63


def choose_columns(
    schema: Any, image: str, captions: Sequence[str], unsigned: Collection[str] = ()
) -> Columns:
    """Chooses the role of each column.

    Args:
      schema: the schema of a file.
      image: the column of images; empty: the only column of bytes.
      captions: the columns of captions; none: those with a name among CAPTION_NAMES.
      unsigned: columns of numbers too large for an example, which are stored as text.

    Raises:
      UserError: a requested column is missing or of another kind, `image` is empty and the number
        of columns of bytes is not one, or two columns have the same name.
    """
    if duplicates := {name for name in schema.names if schema.names.count(name) > 1}:
        raise UserError(f"several columns are named {min(duplicates)!r}")
    kinds = {field.name: _kind(field.type) for field in schema}
    images = [name for name, kind in kinds.items() if kind == "image"]
    if image and image not in images:
        raise UserError(
            f"image={image!r} is not a column of bytes; those are {_words(images)}{_hint(kinds)}"
        )
    if not image and not images:
        raise UserError(f"none of the columns {_words(kinds)} hold bytes{_hint(kinds)}")
    if not image and len(images) != 1:
        raise UserError(
            f"{_words(images)} of the columns {_words(kinds)} hold bytes; "
            "give the column of the images as `image`"
        )
    texts = [name for name, kind in kinds.items() if kind in ("text", "texts")]
    if unusable := [name for name in captions if name not in texts]:
        raise UserError(
            f"captions={_words(unusable)} is not a column of texts; those are {_words(texts)}"
        )
    image = image or images[0]
    captions = captions or [name for name in texts if name.lower() in CAPTION_NAMES]
    kinds |= {name: kinds[name].replace("int", "text") for name in unsigned if name in kinds}
    rest = [n for n in kinds if n not in (image, *captions)]
    # Examples store images and captions under these two names, so no field can have them.
    kept = [
        n
        for n in rest
        if kinds[n] not in ("", "image", "images") and n not in ("image", "captions")
    ]
    return Columns(
        image,
        {name: kinds[name] for name in captions},
        {name: kinds[name] for name in kept},
        {name: classes for name in kept if (classes := _class_names(schema, name, kinds[name]))},
        tuple(name for name in rest if name not in kept),
        tuple(name for name in kept if name in unsigned),
    )


def _hint(kinds: dict[str, str]) -> str:
    """Advice for a file that has no images but has lists of them, or their URLs or paths."""
    if lists := next((name for name, kind in kinds.items() if kind == "images"), ""):
        return (
            f"; {lists!r} holds lists of images, which are not read: write the images as files, "
            "and the rows as .jsonl with lists of paths, which format=folder reads"
        )
    texts = {name.lower(): name for name, kind in kinds.items() if kind == "text"}
    if url := next((texts[name] for name in URL_NAMES if name in texts), ""):
        return (
            f"; to download the images at {url!r}, run img2dataset --input_format parquet "
            f"--url_list FILES --url_col {url} --output_format webdataset --output_folder SHARDS; "
            "format=webdataset reads them"
        )
    if path := next((texts[name] for name in PATH_NAMES if name in texts), ""):
        return (
            f"; if {path!r} holds paths of files, write the rows as .jsonl or .csv, which "
            "format=folder reads"
        )
    return ""


def common_columns(
    names: Sequence[str], footers: Sequence[Footer], image: str, captions: Sequence[str]
) -> Columns:
    """The role of each column of several files; those without rows may have any columns.

    A column without a value in one file has the type that it has in the others.

    Args:
      names: of the files, for messages.
      footers: of each file.
      image: as of `choose_columns`.
      captions: as of `choose_columns`.

    Raises:
      UserError: no file has rows, the columns cannot be chosen, or files disagree.
    """
    schemas = {name: f.schema for name, f in zip(names, footers, strict=True) if sum(f.rows)}
    if not schemas:
        raise UserError(f"the Parquet files {_words(map(http.shown, names[:3]))} hold no rows")
    unsigned = frozenset[str]().union(*(footer.unsigned for footer in footers))
    typed = {f.name: f for schema in schemas.values() for f in schema if _is_typed(f.type)}
    chosen = {}
    for name, schema in schemas.items():
        try:
            chosen[name] = choose_columns(_with_types(schema, typed), image, captions, unsigned)
        except UserError as error:
            raise UserError(f"{http.shown(name)}: {error}") from error
    first, columns = next(iter(chosen.items()))
    for name, own in chosen.items():
        if different := _different(own, columns):
            what = "; ".join(_difference(c, schemas[name], schemas[first]) for c in different)
            raise UserError(
                f"{http.shown(name)} has other columns than {http.shown(first)}: {what}; give "
                "files of the same columns"
            )
    return columns


def _is_typed(column: Any) -> bool:
    """Whether a type is known: a column, or lists, of nulls alone have none."""
    from pyarrow import types

    if types.is_list(column) or types.is_large_list(column):
        return _is_typed(column.value_type)
    return not types.is_null(column)


def _with_types(schema: Any, typed: dict[str, Any]) -> Any:
    """The schema, with the types that other files have for columns of nulls."""
    import pyarrow

    columns = [f if _is_typed(f.type) else typed.get(f.name, f) for f in schema]
    return pyarrow.schema(columns, metadata=schema.metadata)


def _different(one: Columns, other: Columns) -> list[str]:
    """The columns that are not read alike."""

    def roles(columns: Columns) -> dict[str, Any]:
        kinds = columns.captions | columns.fields
        names = {name: columns.class_names.get(name) for name in columns.fields}
        return {columns.image: "image"} | {name: (kinds[name], names.get(name)) for name in kinds}

    a, b = roles(one), roles(other)
    return [name for name in a | b if a.get(name) != b.get(name)]


def _difference(name: str, here: Any, there: Any) -> str:
    """A phrase on a column that two schemas do not have alike."""
    types = [s.field(name).type if name in s.names else "absent" for s in (here, there)]
    if types[0] == types[1]:
        return f"{name} has other names of classes"
    return f"{name} is {types[0]}, there {types[1]}"


def _kind(column: Any) -> str:
    """The kind of a type: "image", "text", "int", "float", "bool", "texts" for lists ...; or ""."""
    from pyarrow import types

    if types.is_struct(column):
        names = [column.field(i).name for i in range(column.num_fields)]
        if "bytes" not in names:
            return ""
        content = column.field("bytes").type
        # If all images are separate files, the `bytes` of Hugging Face's structs are all null.
        is_image = (types.is_null(content) and "path" in names) or _kind(content) == "image"
        return "image" if is_image else ""
    if types.is_list(column) or types.is_large_list(column) or types.is_fixed_size_list(column):
        item = _kind(column.value_type)
        return f"{item}s" if item in ("text", "int", "float", "bool", "image") else ""
    if types.is_dictionary(column):
        return _kind(column.value_type)
    kinds = {
        "image": (types.is_binary, types.is_large_binary, types.is_binary_view),
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "int": (types.is_integer,),
        "float": (types.is_floating,),
        "bool": (types.is_boolean,),
    }
    return next((kind for kind, tests in kinds.items() if any(t(column) for t in tests)), "")


def _class_names(schema: Any, name: str, kind: str) -> list[str]:
    """The class names of a column of numbers, if Hugging Face's `datasets` stored them."""
    if kind not in ("int", "ints"):
        return []
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = info["info"]["features"][name]
        names = feature.get("feature", feature)["names"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    # TFDS writes one name per line, and needs them to differ.
    lines = isinstance(names, list) and all(isinstance(n, str) and "\n" not in n for n in names)
    return names if lines and len(set(names)) == len(names) else []


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
