"""WebDataset tars, as img2dataset writes them, with random access to their samples."""

import bisect
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from coca_jax.data.errors import BadExample
from coca_jax.data.sources import Context, SourceConfig, needs
from coca_jax.data.sources.base import (
    Note,
    Record,
    Shard,
    base_name,
    to_labels,
    to_number,
    to_text,
)
from coca_jax.data.sources.split_files import files_of_split
from coca_jax.data.sources.tar_headers import (
    BLOCK,
    LONG_NAME,
    NUL,
    PAX,
    USTAR,
    extended_values,
    header_name,
    is_header,
    number,
)
from coca_jax.data.sources.tar_index import IMAGE_KEYS, Index, make_options, open_indices
from coca_jax.data.sources.tar_notes import merged, sentences
from coca_jax.data.texts import is_missing, to_captions
from coca_jax.errors import UserError
from coca_jax.io import files, http

CLASS_NAMES = "classnames.txt"
KIND = "dataset_type.txt"  # CLIP_benchmark's; "retrieval": each line of a .txt is a caption
CAPTION_KEYS = ("caption", "captions", "text", "txt")  # of the JSON, where there is no .txt
_PARTS = (("jpg", 0), ("txt", 2), ("json", 4), ("cls", 6))  # and their columns in an index
HEADERS = 3 * BLOCK  # bytes before a member's body: its header, and usually an extended one
MAX_GAP = 256 << 10  # bytes between parts of a sample that are read, too, and discarded


class WebDatasetSource:
    """The samples of tars that have an image, in the order of the tars."""

    def __init__(
        self,
        indices: Sequence[Index],
        by_line: bool = False,
        image_keys: Sequence[str] = (),
        text_keys: Sequence[str] = (),
    ):
        """Joins the indices of tars, whose .txt have one caption or, `by_line`, several.

        The keys are those that the indices were made with, for the notes.
        """
        self._by_line = by_line
        self.class_names: list[str] = []
        self.notes: list[Note] = sentences(merged(indices), image_keys, text_keys)
        self._indices = [index._replace(notes={}) for index in indices]
        self._ends = list(itertools.accumulate(index.count for index in indices))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        """Reads the parts of a sample, which are usually adjacent, in one request.

        Raises:
          BadExample: its JSON or a text is damaged.
          FileNotFoundError: the tar was deleted since.
          EOFError: the tar was truncated since.
        """
        number = self._shard(index)
        tar_index = self._indices[number]
        row = tar_index.row(index - self._ends[number] + tar_index.count)
        parts = _read(tar_index.tar, row)
        fields = _fields(parts.get("json"))
        label, labels = _label(parts.get("cls"), self.class_names)
        return {
            **_key(parts.get("headers", b"")),
            "image": parts["jpg"],
            **_captions(parts.get("txt"), fields, self._by_line),
            "label": label,
            "labels": labels,
            "fields": fields,
        }

    def shard(self, index: int) -> str:
        """The tar that a sample is in."""
        return self._indices[self._shard(index)].tar

    def shards(self) -> list[Shard]:
        """The tars."""
        return [
            Shard(base_name(i.tar), i.size, i.count, f"{i.checksum:08x}") for i in self._indices
        ]

    def _shard(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return bisect.bisect_right(self._ends, index)


@needs("path")
def open_webdataset(options: SourceConfig, context: Context) -> WebDatasetSource:
    """The format `webdataset`; see `webdataset_source`."""
    return webdataset_source(
        options.path, context.cache_dir, options.split, options.image_keys, options.text_keys
    )


def webdataset_source(
    path: str | Sequence[str],
    cache_dir: str = "",
    split: str = "",
    image_keys: Sequence[str] = (),
    text_keys: Sequence[str] = (),
) -> WebDatasetSource:
    """Opens WebDataset tars; the first time, their headers are read to index them.

    Args:
      path: a path or URL, or several, with `{00000..00099}`, `{a,b}`, `*`, `?`, `[0-9]`. Or a local
        folder (`files_of_split`), possibly as of CLIP_benchmark: `<split>/*.tar`, and next to the
        splits `classnames.txt` or, for retrieval, `dataset_type.txt`.
      cache_dir: for indices that cannot be written next to their tars; empty:
        ~/.cache/coca_jax/tar_index.
      split: of a folder of splits, or of files that are named by splits.
      image_keys: extensions of members that are images, such as "input.jpg"; the first that a
        sample has is read. Empty: `tar_index.IMAGE_KEYS`.
      text_keys: extensions of members that are texts, read in the same way. Empty: "txt".

    Raises:
      UserError: a tar is not there, cannot be read or is not a tar, or no sample has an image; or
        the folder's data set is of a kind that cannot be read (several labels an image).
    """
    folder = isinstance(path, str) and os.path.isdir(path) and path
    tars, notes = files_of_split(path, split, "*.tar")
    kind = _kind(folder) if folder else ""
    options = make_options(image_keys, text_keys)
    indices = open_indices(tars, cache_dir, options)
    source = WebDatasetSource(indices, kind == "retrieval", image_keys, text_keys)
    source.notes = [*notes, *source.notes]
    if folder and os.path.isfile(names := os.path.join(folder, CLASS_NAMES)):
        source.class_names = files.read_lines(names)
    if not len(source):
        keys = ", ".join(f".{key}" for key in image_keys or IMAGE_KEYS)
        shown = ", ".join(map(http.shown, tars[:3])) + ", ..." * (len(tars) > 3)
        message = f"no sample of {shown} has an image ({keys})"
        raise UserError("\n".join([message, *(note.text for note in source.notes)]))
    return source


def _kind(folder: str) -> str:
    """The kind of a data set in CLIP_benchmark; empty: it is not stated."""
    path = os.path.join(folder, KIND)
    kind = files.read_lines(path)[0] if os.path.isfile(path) else ""
    if kind not in ("", "retrieval", "classification"):
        raise UserError(f"{path} says {kind!r}; it should be retrieval or classification")
    return kind


def _read(tar: str, row: Sequence[int]) -> dict[str, bytes]:
    """The parts of a sample by name, without those that it lacks; and the headers of the first."""
    spans = {
        name: (row[column], row[column] + row[column + 1])
        for name, column in _PARTS
        if row[column + 1] >= 0
    }
    begin, end = min(low for low, _ in spans.values()), max(high for _, high in spans.values())
    if end - begin > sum(high - low for low, high in spans.values()) + MAX_GAP:
        return {name: files.read_range(tar, low, high - low) for name, (low, high) in spans.items()}
    spans["headers"] = (max(0, begin - HEADERS), begin)
    begin = max(0, begin - HEADERS)
    data = files.read_range(tar, begin, end - begin)
    return {name: data[low - begin : high - begin] for name, (low, high) in spans.items()}


def _key(headers: bytes) -> dict[str, str]:
    """The sample's key as WebDataset has it, an entry of a record; none if it is not seen."""
    folder, slash, base = stated_name(headers).decode(errors="replace").rpartition("/")
    return {"key": folder + slash + base.partition(".")[0]} if base else {}


def stated_name(blocks: bytes) -> bytes:
    """The name of a member by the blocks before its body; empty: it is not in them.

    Args:
      blocks: its header, and up to two blocks before that, which hold an extended header if the
        member has one of the usual size.
    """
    block, before = blocks[-BLOCK:], blocks[-3 * BLOCK : -2 * BLOCK]
    name, kind = header_name(block), before[156:157]
    is_whole = NUL in block[:100]  # the rest of a long name is in an extended header
    if kind in (PAX, LONG_NAME) and is_header(before):
        try:
            extended = extended_values(kind, blocks[-2 * BLOCK : -BLOCK][: number(before[124:136])])
        except ValueError:
            return b""
        name, is_whole = extended.get(b"path", name), is_whole or b"path" in extended
    elif b"?" in name and block[257:263] == USTAR:
        return b""  # Python's tarfile writes it for characters that it has in a pax header
    return name if is_whole else b""


def _fields(data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadExample("bad_record", error) from error
    if not isinstance(fields, dict):
        raise BadExample("bad_record", f"its JSON is not an object but {type(fields).__name__}")
    return fields


def _captions(data: bytes | None, fields: dict[str, Any], by_line: bool) -> dict[str, Any]:
    """The parts of a record that `to_captions` returns."""
    if data is not None:
        text = to_text(data).rstrip("\r\n")
        lines = map(str.strip, files.split_lines(text)) if by_line else [text]
        return to_captions(filter(None, lines))
    stored = next((fields[key] for key in CAPTION_KEYS if not is_missing(fields.get(key))), [])
    return to_captions(stored if isinstance(stored, list) else [stored])


def _label(data: bytes | None, class_names: Sequence[str]) -> tuple[int, list[str]]:
    text = "" if data is None else to_text(data).strip()
    return to_labels([to_number(text)] if text else [], class_names)
