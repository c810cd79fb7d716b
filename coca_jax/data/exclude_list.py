"""Lists of training records that look like those of evaluation sets, and are left out.

`coca data deduplicate` writes one; training reads it. Lines may be removed by hand in between.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.messages import cause

COLUMNS = ("record", "set", "set_record", "distance")


def write_list(
    path: str | os.PathLike,
    rows: Iterable[tuple],
    description: Mapping[str, Any],
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Writes a list in one step: a line of JSON on the training set, column names, then TSV.

    Args:
      path: a local file.
      rows: values of the columns.
      description: of the training set, JSON values; "records" is the number of its records.
      columns: their names; the first is "record".
    """
    lines = ["\t".join(map(str, row)) for row in (columns, *rows)]
    head = json.dumps(dict(description), ensure_ascii=False)
    files.write_whole(path, "".join(f"{line}\n" for line in (head, *lines)).encode())


def read_list(path: str | os.PathLike, size: int) -> Int64[np.ndarray, " m"]:
    """Reads the record numbers of a list, sorted.

    Args:
      path: a file or URL that `write_list` wrote.
      size: the number of records of the training set.

    Raises:
      UserError: the file cannot be read, is not such a list, or is of another training set.
    """
    try:
        with files.open_binary(os.fspath(path)) as file:
            lines = files.split_lines(file.read().decode("utf-8-sig"))
        records = json.loads(lines[0])["records"]
    except OSError as error:
        raise UserError(
            f"no list of duplicates can be read from {path}: {cause(error, path)}"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is not a list of duplicates: its first line does not state the number of "
            "records"
        ) from error
    if records != size:
        raise UserError(
            f"{path} was made for a training set of {records} records, but this one has {size}"
        )
    numbers = []
    for number, line in enumerate(lines[1:], 2):
        record = line.split("\t")[0]
        if not line.strip() or (not numbers and record == COLUMNS[0]):
            continue
        if not (record.isdecimal() and int(record) < size):
            wanted = f"should begin with a record number below {size}"
            raise UserError(f"{path}, line {number}: {line[:80]!r} {wanted}")
        numbers.append(int(record))
    return np.unique(np.array(numbers, np.int64))


def contains(indices: Int64[np.ndarray, " m"] | tuple[()], index: int) -> bool:
    """Whether an index is among sorted indices."""
    if not len(indices):  # nearly always
        return False
    position = np.searchsorted(indices, index)
    return bool(position < len(indices) and indices[position] == index)
