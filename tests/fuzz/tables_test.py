import csv
import io
import json
from collections import Counter

import pytest
from fuzz.drawing import TEXT, VALUE, edited, edits, encoded
from fuzz.records import counts, outcomes
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data.texts import MISSING_WORDS, why_unreadable
from coca_jax.errors import UserError

pytestmark = pytest.mark.slow

KEYS = ("image", "images", "captions", "text", "label", "labels", "other")
BOOLEANS = st.booleans()
# Rows with a known fault, as values of image and caption; the name of the image is put in.
FAULTS = {
    "no_path": [["", "a cat"]],
    "wrong_count": [["{}.jpg"], ["{}.jpg", "a", "b", "c"]],
    "not_utf8": [["{}.jpg", "caf\udce9"]],
    "gone": [["gone{}.jpg", "a cat"]],
    "bad_image": [["bad{}.jpg", "a cat"]],
}
# As what they are counted when they are read.
KINDS = {"not_utf8": "bad_text", "bad_image": "bad_image", "good": "good"}
ROW = st.tuples(st.just("good"), st.tuples(st.just("{}.jpg"), TEXT).map(list)) | st.sampled_from(
    [(fault, row) for fault, rows in FAULTS.items() for row in rows]
)
ROWS = st.lists(ROW, min_size=1, max_size=6)
QUOTING = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
ENDS = st.sampled_from(["\n", "\r\n"])
HEADERS = st.sampled_from([("image", "caption"), ("filepath", "title"), ("FILE_NAME", "TEXT")])


def put_in(folder, rows):
    """The rows with names of images, which are written into the folder."""
    named = []
    for number, (fault, row) in enumerate(rows):
        row = [row[0].replace("{}", str(number)), *row[1:]]
        if row[0] and fault not in ("gone", "no_json"):
            (folder / row[0]).write_bytes(b"no image" if fault == "bad_image" else encoded())
        named.append((fault, row))
    return named


def expected(fault, row, missing):
    """As what a row is counted, and the captions that it has; None if they may be several."""
    kind = KINDS.get(fault, "bad_record")
    if missing and fault == "good" and row[1].startswith("[") and row[1].endswith("]"):
        return kind, None
    if fault != "good" or not row[1].strip() or row[1] in missing:
        return kind, []
    return ("bad_text", []) if why_unreadable(row[1]) else (kind, row[1:])


def check(source, rows, missing=MISSING_WORDS):
    """That rows are records or counted, and what is read of a caption is what was written."""
    assert len(source) == len(rows)
    found = counts(source)
    assert found["rows"] == len(rows)
    for fault in ("no_path", "wrong_count", "not_utf8", "unclosed", "no_json"):
        assert found[fault] == [name for name, _ in rows].count(fault), fault
    wanted = [expected(*row, missing) for row in rows]
    assert outcomes(source) == Counter(kind for kind, _ in wanted)
    for index, (kind, captions) in enumerate(wanted):
        if kind == "good" and captions is not None:
            assert source[index]["captions"] == captions


@fuzz(
    200,
    rows=ROWS,
    separator=st.sampled_from(",;|\t"),
    suffix=st.sampled_from([".csv", ".tsv", ".TSV"]),
    quoting=QUOTING,
    end=ENDS,
    header=HEADERS,
    bom=st.booleans(),
)
def test_every_row_of_a_table_is_a_record_or_counted(
    folder, rows, separator, suffix, quoting, end, header, bom
):
    rows = put_in(folder, rows)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerows([header, *(row for _, row in rows)])
    data = b"\xef\xbb\xbf" * bom + text.getvalue().encode("utf-8", "surrogateescape")
    path = folder / f"t{suffix}"
    path.write_bytes(data)
    check(opened(path), rows)


# Lines of a .jsonl that are not rows.
NO_ROWS = ["5", "[]", "{", "nothing", '{"image": 1, "image": 2}', "[" * 100_000, '{"a": }']


@fuzz(
    150, rows=st.lists(ROW | st.sampled_from([("no_json", line) for line in NO_ROWS]), max_size=6)
)
def test_every_line_of_a_jsonl_is_a_record_or_counted(folder, rows):
    rows = [("good", ["first.jpg", "a dog"]), *(r for r in rows if r[0] != "wrong_count")]
    named = put_in(folder, rows)
    lines = [
        row[0] if fault == "no_json" else json.dumps({"image": row[0], "text": row[1], "n": 1})
        for fault, row in named
    ]
    path = folder / "t.jsonl"
    path.write_bytes("\n".join(lines).encode().replace(b"\\udce9", b"\xe9"))
    check(opened(path), named, missing=())


def opened(path):
    return open_source(SourceConfig(format="folder", path=str(path)))


@fuzz(
    150, values=st.lists(st.dictionaries(st.sampled_from(KEYS), VALUE), max_size=5), ascii=BOOLEANS
)
def test_whatever_json_holds_is_a_record_or_bad(folder, values, ascii):
    lines = [json.dumps(value, ensure_ascii=ascii) for value in ({"image": "a.jpg"}, *values)]
    path = folder / "t.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    (folder / "a.jpg").write_bytes(encoded())
    source = opened(path)
    assert counts(source)["rows"] == len(lines)
    outcomes(source)


@fuzz(100, rows=ROWS, suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]), changes=edits(least=1))
def test_damaged_tables_are_read_or_refused(folder, rows, suffix, changes):
    rows = [(row[0], row[1] if len(row) > 1 else "") for _, row in put_in(folder, rows)]
    text = io.StringIO()
    if suffix == ".jsonl":
        for image, caption in rows:
            text.write(json.dumps({"image": image, "caption": caption}) + "\n")
    else:
        writer = csv.writer(text, delimiter="\t" if suffix == ".tsv" else ",")
        writer.writerows([("image", "caption"), *rows])
    data = edited(text.getvalue().encode("utf-8", "surrogateescape"), changes)
    path = folder / f"t{suffix}"
    path.write_bytes(data)
    try:
        source = opened(path)
    except UserError:
        return
    assert sum(outcomes(source).values()) == len(source)
    if suffix == ".jsonl":
        lines = data.split(b"\n" if b"\n" in data else b"\r")
        filled = [line for line in lines if line.decode(errors="replace").strip("\ufeff \r\t")]
        assert counts(source)["rows"] == len(filled)
