import csv
import pickle
import uuid

import fsspec
import numpy as np
import pytest

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.tables import FAULTS, Table
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.messages import counted


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
    pieces = ["a", "é", "猫", '"', ",", "\n", "\r\n", "\r", " ", "\t", "''", "\x85", "\u2028", ""]
    for name in ("a.csv", "b.tsv"):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, dialect="excel" if name == "a.csv" else "excel-tab")
            writer.writerow(["n", "image", "text"])
            for i in range(150):
                text = "".join(rng.choice(pieces, size=rng.integers(12)))
                writer.writerow([i, f"{rng.integers(90)}.jpg", text])
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
    ((first, second),) = everything(table("a.jsonl", data))
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
        ("a.csv", b"img;text\na;b\n", r"needs one of the columns image, path; it has img, text"),
        ("a.csv", b"url,text\na,b\n", r"it has url, text; img2dataset downloads"),
        ("a.csv", b"image,text\n", r"holds no rows"),
        ("a.csv", b"image,text,text\na,b,c\n", r"a\.csv:1: several columns are named 'text'"),
        ("a.csv", b"image,\xff\n", r"a\.csv:1: the header"),
        ("a.csv", "image,text\na,b\n".encode("utf-16"), r"is UTF-16, .*iconv -f UTF-16 -t UTF-8"),
        ("a.tsv", "image,text\na,b\n".encode("utf-16-be"), r"is UTF-16BE, .*iconv -f UTF-16BE"),
        ("a.jsonl", '{"image": "a"}\n'.encode("utf-32"), r"is UTF-32"),
        ("a.jsonl", b"", r"holds no rows"),
        ("a.jsonl", b'\n{"image": \n', r"a\.jsonl:2 is not a JSON object in one line"),
        ("a.jsonl", b'[\n{"image": "a"}]\n', r"a\.jsonl:1 is not a JSON object .*jq -c '\.\[\]'"),
        ("a.jsonl", b'[{"image": "a"}]\n', r"jq -c '\.\[\]'"),
        ("a.jsonl", b'{\n"image": "a"\n}\n', r"jq -c \. "),
        ("a.jsonl", b'{"url": "a", "b": 1}\n', r"columns image, path; it has url, b"),
    ],
)
def test_what_is_no_table_is_said(table, name, data, message):
    with pytest.raises(UserError, match=message):
        table(name, data)


@pytest.mark.parametrize(
    "rows",
    [
        'b.jpg,"a cat\nc.jpg,a dog\nd.jpg,a "red" bird\n',
        'b.jpg,"a cat\nc.jpg,a dog of 12"\nd.jpg,a bird\n',
        'b.jpg,"a cat\nc.jpg,a dog\nd.jpg,"a bird"\n',
        'b.JPG,"a cat\n\nc.jpg,a dog\n' + "d.jpg,a bird\n" * 1000,
        'b.jpg,"a cat, asleep\nor not\n',
    ],
)
def test_a_quote_that_would_take_other_rows_is_refused_with_its_line(table, rows):
    with pytest.raises(UserError, match=r"a\.csv:3: a quote of this row is not closed"):
        table("a.csv", b"image,text\na.jpg,first\n" + rows.encode())


def test_line_breaks_in_quotes_are_text(table):
    text = 'Hello,\r\nyou, "dear" \n\ncat.jpg'
    quoted = text.replace('"', '""')
    for name, comma in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        data = f'image,text\na.jpg,"{quoted}"\nb.jpg,last\n'.replace("t,", f"t{comma}")
        data = data.replace("image,", f"image{comma}").replace(".jpg,", f".jpg{comma}")
        assert everything(table(name, data.encode())) == [
            [{"image": "a.jpg", "text": text}],
            [{"image": "b.jpg", "text": "last"}],
        ]


def test_quotes_between_tabs_are_characters(table):
    texts = ['"open', 'shut"', '"both"', '"A" and "B"', '12" pipe', '""x""', '"', "o'"]
    rows = "".join(f"{i}.jpg\t{text}\n" for i, text in enumerate(texts))
    for name in ("a.tsv", "a.csv"):
        opened = table(name, b"image\ttext\n" + rows.encode())
        assert [rows[0]["text"] for rows in everything(opened)] == texts
        assert not opened.faults and opened.separator == "\t"


def test_quotes_that_programs_need_between_tabs_are_theirs(table, tmp_path):
    texts = ['he said "hi"', "one\ttwo", '"quoted"', 'a\n"b"', "c", ""]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC):
        with open(tmp_path / "a.tsv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, "excel-tab", quoting=quoting)
            writer.writerows([("text", "image"), *((t, f"{i}.jpg") for i, t in enumerate(texts))])
        opened = table("a.tsv", (tmp_path / "a.tsv").read_bytes())
        assert [rows[0]["text"] for rows in everything(opened)] == texts


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_separators_and_headers_as_programs_write_them(table, separator):
    text = 'n, "Image" , title,\n1,a.jpg,cat,\n2,b.jpg,dog\n\n,,,\n'
    text = text.replace(", ", ",").replace(" ,", ",").replace(",", separator)
    for start in ("", f"sep={separator}\n", "\ufeff"):
        opened = table("a.csv", (start + text).encode())
        assert (opened.separator, opened.column) == (separator, "Image")
        assert everything(opened) == [
            [{"n": "1", "Image": "a.jpg", "title": "cat"}],
            [{"n": "2", "Image": "b.jpg", "title": "dog"}],
        ]


def test_lines_that_end_with_cr(table):
    rows = [[{"path": "a", "b": "1"}], [{"path": "c", "b": 'x"y'}]]
    assert everything(table("a.csv", b'path,b\ra,1\rc,"x""y"')) == rows
    assert everything(table("a.jsonl", b'{"path": "a"}\r\r{"path": "b"}\r'))[1] == [{"path": "b"}]


def test_what_is_found_at_the_start_is_what_is_read(table):
    rng = np.random.default_rng(0)
    pieces = ["a", ".jpg", '"', '""', ",", "\t", ";", "\n", "\r\n", "\r", "é", "\0", "\ufeff", " "]
    pieces += [
        '{"image":"a"}',
        "{",
        "}",
        '\n{"image": "b", "text": ',
        "\n1.jpg,",
        '\n2.jpg\t"',
        "[",
    ]
    for _ in range(200):
        name = ("a.csv", "a.tsv", "a.jsonl")[rng.integers(3)]
        header = {"a.csv": "image,text\n", "a.tsv": "image\ttext\n", "a.jsonl": '{"image": "a"}\n'}
        body = "".join(pieces[i] for i in rng.integers(len(pieces), size=rng.integers(40)))
        data = (header[name] + body).encode().replace("é".encode(), b"\xe9")
        files.forget()  # what is kept open of the last file of this name
        try:
            opened = table(name, data)
        except UserError as error:
            assert "not closed" in str(error) or "no rows" in str(error)
            continue
        good = bad = 0
        for i in range(len(opened)):
            try:
                good += len(opened.rows(i))
            except BadExample:
                bad += 1
        counts = {fault: count for fault, (count, _) in opened.faults.items()}
        assert bad == sum(counts.values()) - counts.get("no_path", 0), data
        assert good + bad == opened.row_count, data


def test_values_of_any_length(table):
    long = "x" * 140_000
    for quoted in (long, f'"{long},"'):
        opened = table("a.csv", f"image,text\na,{quoted}\nb,c\n".encode())
        assert opened.rows(0)[0]["text"].rstrip(",") == long and len(opened) == 2


def test_bad_rows_are_counted_with_the_first_line(table):
    data = b'image,text\na,b\n,x\nb\nc,caf\xe9\nd,e,f\n\na,"y"\ng,"open'
    opened = table("a.csv", data)
    assert opened.faults == {
        "no_path": (1, 3),
        "wrong_count": (2, 4),
        "not_utf8": (1, 5),
        "unclosed": (1, 9),
    }
    assert len(opened) == 6 and len(opened.rows(0)) == 2
    with pytest.raises(BadExample, match="bad_record"):
        opened.rows(5)
    data = b'{"image": "a"}\n[1]\n{"image": "b", "image": "c"}\n{"image": null}\n{"image": "b'
    opened = table("a.jsonl", data)
    assert opened.faults == {"no_json": (3, 2), "no_path": (1, 4)}
    assert counted(1, f"rows {FAULTS['no_json']}").startswith("1 row has no valid JSON object, or")
    for index in (1, 2, 4):
        with pytest.raises(BadExample, match="bad_record"):
            opened.rows(index)


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
