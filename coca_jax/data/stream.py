"""Streams: the batches of training and of evaluation.

A training batch is a pure function of (config, examples seen): resuming needs that one integer,
and the global batch is the same for any number of processes and threads.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from coca_jax.data import images
from coca_jax.data.examples import BatchMaker
from coca_jax.data.sources import Source, tfds_source, tokenizer_path
from coca_jax.data.tokenizers import Tokenizer, make_tokenizer
from coca_jax.errors import UserError

Example = dict[str, Any]
Batch = dict[str, Any]


class TrainStream:
    """An endless stream of shuffled examples; every epoch has its own order.

    Args:
      size: number of records of the source.
      make_batch: makes a batch of record indices, given a random generator for each.
      batch_size: examples of the global batch, of all processes together.
      seed: of the order and of the generators.
      process_index: whose rows of the global batch to make.
      process_count: number of processes, which share the batch equally.
      threads: that make batches at the same time.
    """

    def __init__(
        self,
        size: int,
        make_batch: Callable[[Sequence[int], Sequence[np.random.Generator]], Batch],
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 16,
    ):
        if batch_size % process_count:
            raise UserError(
                f"batch size {batch_size} is not divisible by the {process_count} processes"
            )
        self.size, self._make_batch, self._seed = size, make_batch, seed
        self._local_batch_size = batch_size // process_count
        self._process_index, self._process_count = process_index, process_count
        self._threads = threads

    def batches(self, examples_seen: int = 0) -> Iterator[Batch]:
        """This process's rows of the batches that follow the first `examples_seen` examples."""
        import grain

        # Beyond its length it goes on with the next epoch, in another order.
        order = grain.MapDataset.range(self.size).seed(self._seed).shuffle()
        count = self._local_batch_size

        def local_batch(number: int) -> Batch:
            start = examples_seen + count * (number * self._process_count + self._process_index)
            places = range(start, start + count)
            rngs = [np.random.default_rng((self._seed, place)) for place in places]
            return self._make_batch([order[place] for place in places], rngs)

        batches = grain.MapDataset.range(sys.maxsize).map(local_batch)
        return iter(batches.to_iter_dataset(_read_options(self._threads, self._threads)))


def make_tokenizer_from(data: ConfigDict) -> Tokenizer:
    """The tokenizer of a data config; without a path, the one beside the training set."""
    path = data.tokenizer.path
    if data.tokenizer.kind == "sentencepiece" and not path:
        path = tokenizer_path(data.train.name, data.dir)
    return make_tokenizer(data.tokenizer.kind, path)


def make_train_stream(
    data: ConfigDict,
    *,
    image_size: tuple[int, int],
    text_length: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainStream:
    """The training stream of a data config."""
    train = data.train
    source = tfds_source(train.name, train.split, data.dir)
    make_batch = BatchMaker(
        source,
        make_tokenizer_from(data),
        image_size=image_size,
        text_length=text_length,
        captions=train.captions,
        min_crop_area=train.min_crop_area,
        flip=train.flip,
    )
    return TrainStream(
        len(source),
        make_batch,
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        threads=data.threads,
    )


def evaluation_batches(
    source: Source,
    image_size: tuple[int, int],
    batch_size: int,
    limit: int | None = None,
    threads: int = 16,
) -> Iterator[Batch]:
    """Every record once, in order: uint8 images [b, h, w, 3], labels [b] and the lists of texts.

    The last batch may be smaller. Unreadable images are left out and counted in the batch's
    `bad_image`; with `limit`, only the first so many records are read.

    Raises:
      UserError: no image at all could be read.
    """
    import grain

    def load(index: int) -> Example | None:
        record = source[index]
        try:
            image = images.resize_for_evaluation(images.decode(record["image"]), image_size)
        except images.BadExample:
            return None
        return record | {"image": image}

    size = len(source) if limit is None else min(limit, len(source))
    loaded = grain.MapDataset.range(size).map(lambda index: (load(index),))
    rows, bad = [], 0
    for (row,) in loaded.to_iter_dataset(_read_options(threads, 4 * threads)):
        if row is None:
            bad += 1
            continue
        if len(rows) == batch_size:
            yield _collate(rows, bad)
            rows, bad = [], 0
        rows.append(row)
    if not rows:
        raise UserError(f"none of the {size} images could be read")
    yield _collate(rows, bad)


def _collate(rows: list[Example], bad: int) -> Batch:
    batch: Batch = {key: [row[key] for row in rows] for key in rows[0]}
    image, label = np.stack(batch["image"]), np.array(batch["label"], np.int64)
    return batch | {"image": image, "label": label, "bad_image": bad}


def _read_options(threads: int, buffer: int) -> Any:
    import grain

    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
