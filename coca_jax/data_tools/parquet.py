"""Makes rows of Parquet files into `tf.train.Example`s."""

from collections.abc import Iterator
from typing import Any

from coca_jax.data.sources.parquet import NoImage, images_of, values_of
from coca_jax.data.sources.parquet_columns import Columns
from coca_jax.data.texts import with_places
from coca_jax.errors import UserError
from coca_jax.io import files, http, paths
from coca_jax.io.messages import cause

BATCH_ROWS = 64  # read at a time


def to_features(columns: Columns) -> dict[str, Any]:
    """Returns TFDS's description of the examples."""
    import numpy as np
    import tensorflow_datasets as tfds

    features = tfds.features
    plain = {"int": np.int64, "bool": np.bool_, "float": np.float32}

    def feature(name: str, kind: str) -> Any:
        item = kind.removesuffix("s")
        if name in columns.class_names:
            one = features.ClassLabel(names=columns.class_names[name])
        elif item == "text":
            one = features.Text(optional=kind == item)
        else:
            one = features.Scalar(plain[item], optional=kind == item)
        return one if kind == item else features.Sequence(one)

    return {
        "image": features.Image(),
        "captions": features.Sequence(features.Text()),
        **{name: feature(name, kind) for name, kind in columns.fields.items()},
    }


def examples(path: str, groups: range, columns: Columns) -> Iterator[bytes | NoImage]:
    """Yields a serialized example for each row of some row groups, or `NoImage`.

    Raises:
      UserError: the file is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    names = [columns.image, *columns.captions, *columns.fields]
    try:
        with files.open_binary(path) as file, parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS, groups, names, use_threads=False):
                yield from _serialized(batch, columns, paths.folder_of(path))
    except (OSError, pyarrow.ArrowException) as error:
        where = f"{http.shown(path)}, row groups {groups.start} to {groups.stop - 1}"
        raise UserError(f"{where}, cannot be read: {cause(error, path)}") from error


def _serialized(batch: Any, columns: Columns, folder: str) -> Iterator[bytes | NoImage]:
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    images = images_of(batch.column(columns.image), folder)
    captions = [values_of(batch.column(name), kind) for name, kind in columns.captions.items()]
    fields = {name: values_of(batch.column(name), kind) for name, kind in columns.fields.items()}
    for i, image in enumerate(images):
        if isinstance(image, NoImage):
            yield image
            continue
        features = {
            "image": _bytes_feature([image]),
            "captions": _bytes_feature([t for column in captions for t in with_places(column[i])]),
        }
        for name, kind in columns.fields.items():
            if fields[name][i] or kind.endswith("s"):
                features[name] = _feature(fields[name][i], kind)
            elif name in columns.class_names:
                features[name] = _feature([-1], kind)
        example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
        yield example.SerializeToString(deterministic=True)


def _feature(values: list[Any], kind: str) -> Any:
    from tensorflow_datasets.proto import tf_feature_pb2

    if kind.startswith("text"):
        return _bytes_feature(values)
    if kind.startswith("float"):
        return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values))
    return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values))


def _bytes_feature(values: list[bytes]) -> Any:
    from tensorflow_datasets.proto import tf_feature_pb2

    return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=values))
