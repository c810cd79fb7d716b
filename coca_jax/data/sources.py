"""Sources: random access to the raw records of a data set that TFDS has prepared."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from coca_jax.errors import UserError

Record = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Random access to records {"image": bytes, "captions": list[str], "label": int, ...}."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class TfdsSource:
    """One split of a prepared TFDS data set; images stay as encoded bytes.

    A record always has `image`, `captions` (maybe none) and `label` (-1: no label), and
    `questions` and `answers` where the data set has them.
    """

    def __init__(self, data_source: Any, class_names: list[str]):
        from tensorflow_datasets.proto import tf_example_pb2

        self._data_source, self._parse = data_source, tf_example_pb2.Example.FromString
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: int) -> Record:
        features = self._parse(self._data_source[index]).features.feature
        keys = ["captions", *(key for key in ("questions", "answers") if key in features)]
        texts = {
            key: [text.decode(errors="replace") for text in features[key].bytes_list.value]
            for key in keys
        }
        (image,) = features["image"].bytes_list.value
        (label,) = features["label"].int64_list.value or [-1]
        return {"image": image, "label": label, **texts}


def tfds_source(name: str, split: str, data_dir: str | None = None) -> TfdsSource:
    """Opens a split of a prepared data set (no `data_dir`: in TFDS's default folder).

    Raises:
      UserError: the data set is not prepared, has no such split or no images, or is stored in
        a format without random access.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    if "image" not in builder.info.features:
        raise UserError(
            f"data set {name!r} has no feature 'image', only {[*builder.info.features]}"
        )
    try:
        data_source = builder.as_data_source(
            split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except NotImplementedError as error:
        raise UserError(f"data set {name!r} must be prepared as array_record: {error}") from error
    except ValueError as error:
        splits = sorted(builder.info.splits)
        raise UserError(f"data set {name!r} has no split {split!r}, only {splits}") from error
    label = dict(builder.info.features).get("label")
    return TfdsSource(data_source, list(getattr(label, "names", None) or []))


def tokenizer_path(name: str, data_dir: str | None = None) -> Path:
    """Where `prepare` puts the tokenizer that it trains on a data set."""
    return Path(_builder(name, data_dir).data_path) / "tokenizer.model"


def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        from coca_jax.data.builders import BUILDERS

        where = f" in {data_dir}" if data_dir else ""
        how = (
            f"run `coca data prepare {name}`"
            if name in BUILDERS
            else "prepare it with TFDS: "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        )
        raise UserError(f"data set {name!r} is not prepared{where}; {how}") from error
