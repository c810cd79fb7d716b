import pytest
from tf_examples import example

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.tf_example import to_record


def test_usual_names_are_understood_and_all_else_is_a_field():
    data = example(
        {
            "image": [b"\x89PNG"],
            "captions": [b"a cat", "ein Kätzchen".encode()],
            "label": [1],
            "url": [b"http://a/b.png"],
            "width": [640],
            "score": [0.5],
            "tags": [b"a", b"b"],
            "hash": [b"\xff\xfe"],
            "none": [],
        }
    )
    assert to_record(data, ["dog", "cat"]) == {
        "image": b"\x89PNG",
        "captions": ["a cat", "ein Kätzchen"],
        "label": 1,
        "labels": ["cat"],
        "fields": {
            "url": "http://a/b.png",
            "width": 640,
            "score": 0.5,
            "tags": ["a", "b"],
            "hash": b"\xff\xfe",
            "none": [],
        },
    }


@pytest.mark.parametrize(
    "names", [("image/encoded", "captions/text"), ("jpg", "txt"), ("image", "caption")]
)
def test_other_names_of_image_and_caption(names):
    image, caption = names
    record = to_record(example({image: [b"i"], caption: [b"c"], "image/format": [b"jpeg"]}), [])
    assert record["image"] == b"i" and record["captions"] == ["c"]
    assert record["fields"] == {"image/format": "jpeg"}


@pytest.mark.parametrize(
    ("stored", "label", "labels"),
    [
        ([0], 0, ["dog"]),
        ([-1], -1, []),
        ([0, 1], -1, ["dog", "cat"]),
        ([b"cat"], 1, ["cat"]),
        ([b"cow"], -1, ["cow"]),
        ([b"cow", b"dog"], -1, ["cow", "dog"]),
        ([1.0], 1, ["cat"]),
        ([], -1, []),
    ],
)
def test_labels(stored, label, labels):
    record = to_record(example({"image": [b"i"], "label": stored}), ["dog", "cat"])
    assert (record["label"], record["labels"]) == (label, labels)


def test_what_cannot_be_read_is_said():
    with pytest.raises(KeyError, match=r"image/encoded.*picture"):
        to_record(example({"picture": [b"i"]}), [])
    with pytest.raises(KeyError, match="is an image"):  # pixels, not a file
        to_record(example({"image": [0, 255]}), [])
    with pytest.raises(BadExample, match="bad_text"):
        to_record(example({"image": [b"i"], "caption": [b"caf\xe9"]}), [])
    with pytest.raises(BadExample, match=r"bad_record.*parsing"):
        to_record(b"\xffnot an example", [])


def test_captions_that_are_no_text():
    for value, reason in ((5, "5 is not text"), (b"a\0", "NUL"), (b" ", "")):
        found = to_record(example({"image": [b"\x89PNG"], "caption": [value]}), [])
        assert found["captions"] == [] and reason in found.get("no_text", "")


@pytest.mark.parametrize("empty", [[], [b""], [b" ", b""], [float("nan")]])
def test_a_key_without_a_value_hides_no_other(empty):
    stored = {"image": [b"i"], "captions": empty, "caption": [b""], "text": [b"", b"a cat"]}
    found = to_record(example(stored), [])
    assert found["captions"] == ["", "a cat"] and "no_text" not in found
    assert set(found["fields"]) == {"captions", "caption"}
