import json

import pyarrow
import pytest
from pyarrow import parquet as pq

from coca_jax.data.sources import parquet_columns
from coca_jax.errors import UserError

IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def test_columns_are_known_by_types_and_names():
    names = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}, "n": {"dtype": "int8"}}
    schema = pyarrow.schema(
        {
            "picture": IMAGE,
            "TEXT": pyarrow.large_string(),
            "title": pyarrow.large_list(pyarrow.string()),
            "label": pyarrow.int64(),
            "n": pyarrow.int8(),
            "half": pyarrow.list_(pyarrow.float16()),
            "time": pyarrow.timestamp("s"),
            "nested": pyarrow.list_(pyarrow.list_(pyarrow.int8())),
            "image": pyarrow.string(),  # its name is that of the images in the data set
        },
        metadata={"huggingface": json.dumps({"info": {"features": names}})},
    )
    assert parquet_columns.choose_columns(schema, "", ()) == parquet_columns.Columns(
        image="picture",
        captions={"TEXT": "text", "title": "texts"},
        fields={"label": "int", "n": "int", "half": "floats"},
        class_names={"label": ["a", "b"]},
        left_out=("time", "nested", "image"),
    )
    chosen = parquet_columns.choose_columns(schema, "picture", ["image"])
    assert chosen.captions == {"image": "text"} and chosen.fields["TEXT"] == "text"


@pytest.mark.parametrize(
    "names",
    [["a", "a"], ["a\nb", "c"], "ab", None, [1, 2]],
    ids=["twice", "lines", "text", "", "n"],
)
def test_class_names_that_tfds_cannot_keep_are_none(names):
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    schema = pyarrow.schema({"i": pyarrow.binary(), "label": pyarrow.int8()}, metadata=metadata)
    assert parquet_columns.choose_columns(schema, "", ()).class_names == {}


def test_two_columns_of_images_need_a_choice():
    schema = pyarrow.schema({"a": IMAGE, "b": pyarrow.large_binary()})
    with pytest.raises(UserError, match="a, b of the columns a, b hold bytes; give"):
        parquet_columns.choose_columns(schema, "", ())
    assert parquet_columns.choose_columns(schema, "b", ()).left_out == ("a",)


def test_files_that_say_where_images_are_need_another_way():
    schema = pyarrow.schema({"URL": pyarrow.string(), "TEXT": pyarrow.string()})
    for image in ("", "URL"):
        with pytest.raises(UserError, match=r"img2dataset --input_format parquet .*--url_col URL"):
            parquet_columns.choose_columns(schema, image, ())
    schema = pyarrow.schema({"file_name": pyarrow.large_string(), "n": pyarrow.int8()})
    with pytest.raises(UserError, match=r"'file_name' holds paths of files, .*format=folder"):
        parquet_columns.choose_columns(schema, "", ())


def test_a_name_for_two_columns_is_refused():
    schema = pyarrow.schema(
        [("jpg", pyarrow.binary()), ("text", IMAGE), ("text", pyarrow.string())]
    )
    with pytest.raises(UserError, match="several columns are named 'text'"):
        parquet_columns.choose_columns(schema, "", ())


def test_numbers_without_a_sign_are_known_by_statistics(tmp_path):
    def unsigned(values, kind, **options):
        table = pyarrow.table({"n": pyarrow.array(values, kind)})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, **options)
        return parquet_columns.read_footer(str(tmp_path / "a.parquet")).unsigned

    uint64 = pyarrow.uint64()
    assert unsigned([1, 2, None, None, 2**63 - 1], uint64) == frozenset()
    assert unsigned([1, 2, 2**63], uint64) == {"n"}
    assert unsigned([1, 2, 3], uint64, write_statistics=False) == {"n"}
    assert unsigned([[1, 2], [2**64 - 1]], pyarrow.list_(uint64)) == {"n"}
    assert unsigned([2**32 - 1], pyarrow.uint32()) == frozenset()
    schema = pyarrow.schema({"i": pyarrow.binary(), "n": pyarrow.list_(uint64), "text": uint64})
    chosen = parquet_columns.choose_columns(schema, "", (), {"n", "text"})
    assert chosen.fields == {"n": "texts", "text": "text"} and chosen.captions == {}
    assert parquet_columns.choose_columns(schema, "", ()).fields == {"n": "ints", "text": "int"}


def test_a_file_of_lists_of_images_is_refused_with_another_way():
    schema = pyarrow.schema({"images": pyarrow.list_(IMAGE), "text": pyarrow.string()})
    with pytest.raises(UserError, match=r"'images' holds lists of images, .* \.jsonl .*=folder"):
        parquet_columns.choose_columns(schema, "", ())
    chosen = parquet_columns.choose_columns(schema.append(pyarrow.field("jpg", IMAGE)), "", ())
    assert chosen.image == "jpg" and chosen.left_out == ("images",)


def footer(rows=1, names=(), **columns):
    info = {"info": {"features": {"label": {"names": list(names)}}}}
    metadata = {"huggingface": json.dumps(info)} if names else None
    schema = pyarrow.schema({"jpg": pyarrow.binary(), **columns}, metadata)
    return parquet_columns.Footer(schema, [rows], frozenset())


NUMBERS = {"label": pyarrow.int64(), "score": pyarrow.int64()}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({**NUMBERS, "score": pyarrow.float64()}, "score is double, there int64; give"),
        ({"label": pyarrow.int64()}, "score is absent, there int64; give"),
        ({**NUMBERS, "b": pyarrow.bool_()}, "b is bool, there absent; give"),
        ({**NUMBERS, "names": ["a", "b"]}, "label has other names of classes; give"),
    ],
)
def test_columns_that_differ_are_named_with_both_types(columns, words):
    footers = [footer(**NUMBERS), footer(**columns)]
    with pytest.raises(UserError, match=f"^1 has other columns than 0: {words}"):
        parquet_columns.common_columns(["0", "1"], footers, "", ())


def test_columns_that_are_not_read_may_differ():
    times = {"a": pyarrow.timestamp("s"), "b": pyarrow.timestamp("s")}
    footers = [
        footer(**times),
        footer(**dict(reversed(times.items()))),
        footer(0, n=pyarrow.int8()),
    ]
    chosen = parquet_columns.common_columns(["0", "1", "2"], footers, "", ())
    assert chosen.left_out == ("a", "b") and not chosen.fields
    with pytest.raises(UserError, match=r"files https://h/a\?\.\.\. hold no rows"):
        parquet_columns.common_columns(["https://h/a?secret"], [footer(0)], "", ())
