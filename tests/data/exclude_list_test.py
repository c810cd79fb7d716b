import json

import numpy as np
import pytest

from coca_jax.data.exclude_list import COLUMNS, contains, read_list, write_list
from coca_jax.errors import UserError


def test_lists_are_read_as_written(tmp_path):
    path = tmp_path / "new" / "list.tsv"
    description = {"format": "tfds", "name": "größer", "split": "train", "records": 43}
    write_list(path, [(33, "copies", 1, 2), (42, "copies", 3, 0)], description)
    assert [file.name for file in path.parent.iterdir()] == ["list.tsv"]
    head, columns, *rows = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(head) == description
    assert tuple(columns.split("\t")) == COLUMNS
    assert [row.split("\t")[:3] for row in rows] == [["33", "copies", "1"], ["42", "copies", "3"]]
    numbers = read_list(path, 43)
    assert numbers.dtype == np.int64 and numbers.tolist() == [33, 42]
    path.write_text("\n".join([head, rows[1], rows[0], "7", rows[0]]))  # as a person may edit it
    assert read_list(str(path), 43).tolist() == [7, 33, 42]
    edited = "\r\n".join([head, columns, *rows, "", " \t", ""])
    path.write_text(edited, encoding="utf-8-sig", newline="")  # as editors of Windows save it
    assert read_list(path, 43).tolist() == [33, 42]


def test_empty_lists_leave_nothing_out(tmp_path):
    write_list(tmp_path / "list", [], {"records": 5})
    assert read_list(tmp_path / "list", 5).tolist() == []


def test_errors_in_lists_are_named(tmp_path):
    path = tmp_path / "list.tsv"
    with pytest.raises(UserError, match=r"no list of duplicates can be read from .*list\.tsv"):
        read_list(path, 43)
    for content in (b"", b"33\n", b"{}\n", b"[1]\n", b"\xff\xfe", b"record\tset"):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=r"list\.tsv is not a list of duplicates: its first line does not"
        ):
            read_list(path, 43)
    for size in (44, '"43"'):
        path.write_text(f'{{"records": {size}}}\n')
        with pytest.raises(UserError, match=r"set of 4[34] records, but this one has 43"):
            read_list(path, 43)
    for line in ("43\tx", "-1", "3.5", "a b"):
        path.write_text('{"records": 43}\n' + "\t".join(COLUMNS) + f"\n5\tx\t0\t1\n{line}\n6\n")
        with pytest.raises(UserError, match=r"list\.tsv, line 4: .* record number below 43"):
            read_list(path, 43)


def test_contains():
    indices = np.array([2, 5, 9])
    assert [i for i in range(12) if contains(indices, i)] == [2, 5, 9]
    assert not contains(np.zeros(0, np.int64), 0)
