"""Prepares this project's data sets: the records with TFDS, and a tokenizer next to them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from coca_jax.data.sources import Source
from coca_jax.data.sources.tfds import tfds_source, tokenizer_path
from coca_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from coca_jax.errors import UserError
from coca_jax.io import room
from coca_jax.io.files import write_whole

FROM_FILES = ("fashion_mnist",)  # data sets that can be made from local files
TOKENIZER_RECORDS = 5_000  # evenly spaced records of `train` that the tokenizer is trained on


def prepare(name: str, data_dir: str | None = None, files: str | None = None) -> Path:
    """Prepares a data set of this project unless that is already done; returns its folder.

    Leftovers of an interrupted call are never mistaken for a prepared data set: the records and the
    tokenizer are written under temporary names and renamed at the end.

    Args:
      name: one of `datasets.BUILDERS`.
      data_dir: the folder of data sets; None or empty: TFDS's default, `TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      files: a folder with the data set's original files, for those in FROM_FILES; None: they are
        downloaded.

    Raises:
      UserError: the name is unknown, or the original files cannot be downloaded.
    """
    from coca_jax.datasets import BUILDERS

    if name not in BUILDERS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(BUILDERS)}")
    if files and name not in FROM_FILES:
        raise UserError(f"data set {name!r} is not made from files; {', '.join(FROM_FILES)} is")
    options = {"files": files} if files else {}
    builder = BUILDERS[name](data_dir=data_dir or None, **options)
    size = builder.size_mib << 20
    with room.explained(builder.data_path, lambda: size, "or give another folder (--data-dir)"):
        path = _prepare(name, builder, data_dir)
    for split, info in builder.info.splits.items():
        print(f"  {split}: {info.num_examples:,} examples")
    if path.exists():
        print(f"  tokenizer.model: {SentencePieceTokenizer(path).vocab_size:,} pieces")
    return path.parent


def _prepare(name: str, builder: Any, data_dir: str | None) -> Path:
    """Makes the records and the tokenizer that are missing; returns the tokenizer's path."""
    if builder.info.splits:  # read from the folder, if there is one
        print(f"{name} is already prepared in {builder.data_path}")
    else:
        builder.download_and_prepare()
    path = tokenizer_path(name, data_dir)
    if builder.tokenizer_vocab_size and not path.exists():
        texts = _texts(tfds_source(name, "train", data_dir))
        write_whole(path, train_sentencepiece(texts, builder.tokenizer_vocab_size))
    return path


def _texts(source: Source) -> Iterator[str]:
    for index in np.linspace(
        0, len(source) - 1, min(len(source), TOKENIZER_RECORDS), dtype=int
    ).tolist():
        record = source[index]
        yield from record["captions"]
        for key in ("questions", "answers"):
            texts = record["fields"].get(key, [])
            yield from [texts] if isinstance(texts, str) else texts
