import csv
import pickle
import uuid

import fsspec
import numpy as np
import pytest

from coca_jax.data.bad import BadExample
from coca_jax.data.sources.tables import Table
from coca_jax.errors import UserError


@pytest.fixture
def table(tmp_path):
    """Opens a file of given bytes."""

    def open_table(name, data):
        (tmp_path / name).write_bytes(data)
        return Table(str(tmp_path / name), ("image", "path"))

    return open_table


def everything(table):
    return [table.rows(i) for i in range(len(table))]


def test_random_tables_are_as_the_csv_module_reads_them(table, tmp_path):
    rng = np.random.default_rng(0)
    pieces = ["a", "é", "猫", '"', ",", "\n", "\r\n", " ", "\t", "''", "\x85", "\u2028", ""]
    for name in ("a.csv", "b.tsv"):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, dialect="excel" if name == "a.csv" else "excel-tab")
            writer.writerow(["n", "image", "text"])
            for i in range(500):
                text = "".join(rng.choice(pieces, size=rng.integers(12)))
                writer.writerow([i, f"{rng.integers(300)}.jpg", text])
        with open(tmp_path / name, newline="", encoding="utf-8") as file:
            expected = {}
            delimiter = "," if name == "a.csv" else "\t"
            for row in csv.DictReader(file, delimiter=delimiter):
                expected.setdefault(row["image"], []).append(row)
        assert everything(table(name, (tmp_path / name).read_bytes())) == list(expected.values())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_ends_of_lines_byte_order_marks_and_empty_lines(table, start, end):
    rows = [[{"path": "a", "b": "1"}], [{"path": "c", "b": ""}]]
    assert everything(table("a.csv", start + end.join([b"path,b", b"a,1", b"", b"c,"]))) == rows
    lines = end.join([b'{"path": "a", "b": "1"}', b"", b'{"path": "c", "b": ""}', b""])
    assert everything(table("a.jsonl", start + lines)) == rows


def test_tabs_are_told_from_commas(table):
    assert everything(table("a.csv", b"path\ttitle\na,b\tc, d\n")) == [
        [{"path": "a,b", "title": "c, d"}]
    ]


def test_json_keeps_its_types(table):
    data = '{"image": "ä", "n": [1, 2.5, null, "x"]}\n{"image": "\\u00e4", "n": {}}\n'.encode()
    (first,), (second,) = everything(table("a.jsonl", data))
    assert first == {"image": "ä", "n": [1, 2.5, None, "x"]}
    assert second == {"image": "ä", "n": {}}


def test_bad_rows_are_bad_alone(table):
    data = b'image,text\na,good\nb,caf\xe9\nc\nd,one,two\n"e",good\n'
    opened = table("a.csv", data)
    assert opened.rows(0) == [{"image": "a", "text": "good"}]
    for index, reason in ((1, "bad_text"), (2, "1 values in 2"), (3, "3 values in 2")):
        with pytest.raises(BadExample, match=reason):
            opened.rows(index)
    assert opened.rows(4) == [{"image": "e", "text": "good"}]
    opened = table("a.jsonl", b'{"image": "a", "t": "caf\xe9"}\n{"t": ""}\n{"t": ""}\n')
    assert len(opened) == 3  # rows without an image are not of the same image
    with pytest.raises(BadExample, match="bad_text"):
        opened.rows(0)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", r"needs one of the columns image, path; it has none"),
        ("a.csv", b"img;text\na;b\n", r"needs one of the columns image, path; it has img;text"),
        ("a.csv", b"image,text\n", r"holds no rows"),
        ("a.csv", b"image,\xff\n", r"a\.csv:1: no header"),
        ("a.csv", b'image,text\na,b\nb,"c\nd,e\n', r"quote of the row at byte 15 is never closed"),
        ("a.csv", b'image,t\na,b\nb,"c\n' + b"d,e\n" * 40_000, r"a\.csv:\d+: field larger"),
        ("a.csv", "image,text\na,b\n".encode("utf-16"), r"a\.csv:1: no header"),
        ("a.jsonl", b"", r"holds no rows"),
        ("a.jsonl", b'{"image": "a"}\n\n{"image": \n', r"a\.jsonl:3 is no JSON"),
        ("a.jsonl", b'{"image": "a"}\n[1]\n', r"a\.jsonl:2 is no JSON object"),
        ("a.jsonl", b'{"url": "a", "b": 1}\n', r"columns image, path; it has url, b"),
    ],
)
def test_what_is_no_table_is_said(table, name, data, message):
    with pytest.raises(UserError, match=message):
        table(name, data)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv cannot be read"):
        Table(str(tmp_path / "nowhere.csv"), ("image",))


def test_urls():
    url = f"memory://{uuid.uuid4()}/a.csv"
    with fsspec.open(url, "wb") as file:
        file.write(b'image,text\na,"x\ny"\nb,z\na,u\n')
    assert everything(Table(url, ("image",))) == [
        [{"image": "a", "text": "x\ny"}, {"image": "a", "text": "u"}],
        [{"image": "b", "text": "z"}],
    ]


def test_a_pickled_table_is_small(table):
    rows = b"".join(b"%d.jpg,a long caption of this image %d\n" % (i, i) for i in range(10_000))
    opened = table("a.csv", b"image,text\n" + rows)
    data = pickle.dumps(opened)
    assert len(data) < 21 * 10_000
    assert pickle.loads(data).rows(9999) == opened.rows(9999)
