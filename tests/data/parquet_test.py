import json

import pyarrow
import pytest

from coca_jax.data import parquet
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
    assert parquet.choose_columns(schema, "", ()) == parquet.Columns(
        image="picture",
        captions={"TEXT": "text", "title": "texts"},
        fields={"label": "int", "n": "int", "half": "floats"},
        class_names={"label": ["a", "b"]},
        left_out=("time", "nested", "image"),
    )
    chosen = parquet.choose_columns(schema, "picture", ["image"])
    assert chosen.captions == {"image": "text"} and chosen.fields["TEXT"] == "text"


@pytest.mark.parametrize(
    "names",
    [["a", "a"], ["a\nb", "c"], "ab", None, [1, 2]],
    ids=["twice", "lines", "text", "", "n"],
)
def test_class_names_that_tfds_cannot_keep_are_none(names):
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    schema = pyarrow.schema({"i": pyarrow.binary(), "label": pyarrow.int8()}, metadata=metadata)
    assert parquet.choose_columns(schema, "", ()).class_names == {}


def test_two_columns_of_images_need_a_choice():
    schema = pyarrow.schema({"a": IMAGE, "b": pyarrow.large_binary()})
    with pytest.raises(UserError, match="a, b of the columns a, b hold bytes; give"):
        parquet.choose_columns(schema, "", ())
    assert parquet.choose_columns(schema, "b", ()).left_out == ("a",)
