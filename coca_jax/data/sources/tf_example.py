"""Serialized `tf.train.Example`s, as TFDS and others store them, to records, without TensorFlow."""

from collections.abc import Sequence
from typing import Any

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.base import Record, to_labels, to_text
from coca_jax.data.texts import is_missing, to_captions

# The first with a value is taken. Slashes: a feature of a feature, in TFDS and in older formats.
IMAGE_KEYS = (
    *("image", "image/encoded", "image/bytes", "jpg", "jpeg", "png", "webp", "img"),
    *("images", "frames", "video"),
)
CAPTION_KEYS = ("captions", "caption", "captions/text", "image/caption", "text", "txt")
LABEL_KEYS = ("labels", "label", "cls", "image/class/label")


def to_record(data: bytes, class_names: Sequence[str]) -> Record:
    """Parses an example: image, captions and labels by their usual names, the rest as fields.

    Args:
      data: a serialized example.
      class_names: of integer labels; text labels are their own names.

    Raises:
      KeyError: it has no image.
      BadExample: it is not an example, or a caption or label is not UTF-8.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(data).features.feature
    except DecodeError as error:
        raise BadExample("bad_record", error) from error
    values = {key: _values(feature) for key, feature in features.items()}
    image = _take(values, IMAGE_KEYS)
    if not image or not isinstance(image[0], bytes):
        raise KeyError(
            f"none of {', '.join(IMAGE_KEYS)} is an image file; it has {', '.join(values)}"
        )
    texts = [to_text(v) if isinstance(v, bytes) else v for v in _take(values, CAPTION_KEYS)]
    labels = [to_text(v) if isinstance(v, bytes) else v for v in _take(values, LABEL_KEYS)]
    label, names = to_labels(labels, class_names)
    return {
        "image": image[0] if len(image) == 1 else image,
        **to_captions(texts),
        "label": label,
        "labels": names,
        "fields": {key: _field(value) for key, value in values.items()},
    }


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _take(values: dict[str, list[Any]], keys: Sequence[str]) -> list[Any]:
    """Removes and returns the values of the first key that has one."""
    there = [key for key in keys if key in values]
    key = next((key for key in there if _has_value(values[key])), next(iter(there), ""))
    return values.pop(key, [])


def _has_value(values: list[Any]) -> bool:
    return any(v.strip() if isinstance(v, bytes) else not is_missing(v) for v in values)


def _field(values: list[Any]) -> Any:
    """The value, or a list of several; bytes become text if they are UTF-8."""
    values = [_text_or_bytes(value) for value in values]
    return values[0] if len(values) == 1 else values


def _text_or_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
