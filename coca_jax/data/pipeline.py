"""Streams: the batches of training and of evaluation.

A training batch is a pure function of (config, examples seen): resuming needs that one integer,
and the global batch is the same for any number of processes and threads. Grain runs the threads and
the worker processes, one batch at a time in each. `grain.MapDataset.batch` would make each example
by itself, and reading, decoding and tokenizing all examples of a batch together is faster.
"""

import hashlib
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from coca_jax import patches
from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.errors import BAD_KINDS
from coca_jax.data.examples import DataError
from coca_jax.data.mixture import Mixture
from coca_jax.data.sources import Source
from coca_jax.data.texts import to_present_captions
from coca_jax.data.transforms import images, multi_image
from coca_jax.errors import UserError
from coca_jax.io import http
from coca_jax.io.parent import end_with_parent
from coca_jax.patches import Target

Example = dict[str, Any]
Batch = dict[str, Any]


class TrainStream:
    """An endless stream of shuffled examples; every epoch has its own order.

    Args:
      mixture: says which record has which index in the stream.
      make_batch: makes a batch of records, given a random generator for each and the step's length
        of patches; its "errors" are counted here, the rest is yielded.
      batch_sizes: examples of each step's global batch, of all processes together.
      seed: of the generators.
      process_index: whose rows of the global batch to make.
      process_count: the number of processes, which share the batch equally.
      threads: that make batches at the same time, in each worker.
      workers: processes that make batches; 0: this one does.

    Attributes:
      errors: the number of examples of this process that were replaced, by shard and kind.
    """

    def __init__(
        self,
        mixture: Mixture,
        make_batch: Callable[..., Batch],
        *,
        batch_sizes: BatchSizes,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 16,
        workers: int = 0,
    ):
        if (size := batch_sizes.batch_size) % process_count:
            raise UserError(f"batch size {size} is not divisible by the {process_count} processes")
        self.mixture, self.make_batch, self._seed = mixture, make_batch, seed
        self.batch_sizes, self._share = batch_sizes, (process_index, process_count)
        self._threads, self._workers = threads, workers
        self.errors: Counter[DataError] = Counter()

    def batches(self, examples_seen: int = 0) -> Iterator[Batch]:
        """Yields this process's rows of the batches after the first `examples_seen` examples."""
        import grain

        numbers = grain.MapDataset.range(sys.maxsize)
        batches = numbers.map(
            _LocalBatch(
                self.mixture,
                self.make_batch,
                self._seed,
                self.batch_sizes,
                examples_seen,
                *self._share,
            )
        ).to_iter_dataset(_read_options(self._threads, self._threads))
        if self._workers:
            _parse_flags()
            options = grain.multiprocessing.MultiprocessingOptions(num_workers=self._workers)
            batches = batches.mp_prefetch(options, worker_init_fn=_obey_parent)
        iterator = iter(batches)
        try:
            for batch in iterator:
                self.errors.update(batch.pop("errors", ()))
                yield batch
        finally:
            iterator.close()

    def worst_shards(self, count: int = 3) -> str:
        """Names the shards with the most bad examples, with their numbers; empty: none was bad."""
        bad: Counter[str] = Counter()
        for error, count_of_error in self.errors.items():
            if error.kind in BAD_KINDS:
                bad[error.shard] += count_of_error
        return ", ".join(f"{shard} ({number})" for shard, number in bad.most_common(count))


class _LocalBatch(NamedTuple):
    """Makes one process's rows of a batch, by its number; pickled for the worker processes."""

    mixture: Mixture
    make_batch: Callable[..., Batch]
    seed: int
    batch_sizes: BatchSizes
    examples_seen: int  # before batch 0
    process_index: int
    process_count: int

    def __call__(self, number: int) -> Batch:
        sizes = self.batch_sizes
        first = sizes.steps(self.examples_seen)
        step = first + number
        start = self.examples_seen + sizes.examples_seen(step) - sizes.examples_seen(first)
        size = sizes.size(step) // self.process_count
        start += size * self.process_index
        indices = range(start, start + size)
        rngs = [np.random.default_rng((self.seed, index)) for index in indices]
        refs, length = [self.mixture[index] for index in indices], sizes.length(step)
        return self.make_batch(refs, rngs, *(() if length is None else (length,)))


def _obey_parent(index: int, count: int) -> None:
    """In a worker: only the training process decides what a signal means; without it, end."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def _parse_flags() -> None:
    """Grain hands absl's flags to its processes, which fails unless somebody has parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def evaluation_batches(
    source: Source,
    image_size: Target,
    batch_size: int,
    limit: int | None = None,
    threads: int = 16,
    num_images: int = 1,
    resizing: images.Resizing = images.COVERING,
) -> Iterator[Batch]:
    """Yields every record once, in order; the last batch may be smaller.

    Records that cannot be read or decoded are left out and counted in "bad_image" of their batch;
    stderr names one. Captions that are not text are left out, which stderr says, too.

    Args:
      source: of the records.
      image_size: height and width in pixels, or a budget of patches.
      batch_size: records of a batch.
      limit: only this many of the first records are read; None: all.
      threads: that read and decode.
      num_images: of a record, evenly spaced among those that it has.
      resizing: of images to that size.

    Yields:
      "image" uint8 [b, h, w, 3], or [b, num_images, h, w, 3] if `num_images` > 1, or `Patches`;
      "label" int64 [b]; "bad_image", a count; and lists: "captions", "labels", "fields", "index"
      (numbers of the records), "digest" (hashes of the image files' bytes), "stored_captions" (with
      an empty text in the place of one that is missing) and what else records have, such as "key";
      None for a record without it.

    Raises:
      UserError: no image could be read.
    """
    import grain

    loader = _Loader(source, image_size, num_images, resizing)
    size = len(source) if limit is None else min(limit, len(source))
    loaded = grain.MapDataset.range(size).map(lambda index: (loader(index),))
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
        reason = min(loader.bad_images, default="")
        raise UserError(f"none of the {size} images could be read: {reason}")
    for warning in loader.warnings(size):
        print(warning, file=sys.stderr)
    yield _collate(rows, bad)


class _Loader:
    """Reads and decodes records for evaluation, and notes what is left out."""

    def __init__(
        self,
        source: Source,
        image_size: Target,
        num_images: int,
        resizing: images.Resizing,
    ):
        self._source, self._size, self._num_images = source, image_size, num_images
        self._resizing = resizing
        self.bad_images: list[str] = []  # why
        self.bad_texts: dict[int, str] = {}  # why, by record

    def __call__(self, index: int) -> Example | None:
        """A record with its decoded image, index and digest; None: it cannot be read."""
        try:
            record = self._source[index]
            decoded = multi_image.decode_images(record["image"], self._num_images)
            image = [images.prepare(one, self._size, self._resizing) for one in decoded]
        except Exception as error:  # whatever a reader raises for a damaged record
            shard = http.shown(self._source.shard(index))
            self.bad_images.append(f"record {index} of {shard}: {error}")
            return None
        record = {**record, **to_present_captions(record["captions"])}
        if reason := record.pop("no_text", ""):
            self.bad_texts[index] = reason
        digest = _digest(record["image"])
        return record | {"image": multi_image.stacked(image), "index": index, "digest": digest}

    def warnings(self, size: int) -> Iterator[str]:
        """Yields sentences on the images and captions of `size` records that were left out."""
        if self.bad_images:
            count = len(self.bad_images)
            yield f"{count:,} of {size:,} images are left out: {min(self.bad_images)}"
        if self.bad_texts:
            first = min(self.bad_texts)
            shard = http.shown(self._source.shard(first))
            yield (
                f"captions of {len(self.bad_texts):,} of {size:,} images are left out, the first "
                f"of record {first} of {shard}: {self.bad_texts[first]}"
            )


def _digest(image: bytes | Sequence[bytes]) -> bytes:
    """A hash of the bytes of an image file, or of several."""
    parts = [image] if isinstance(image, bytes) else image
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _collate(rows: list[Example], bad: int) -> Batch:
    keys = dict.fromkeys(key for row in rows for key in row)
    batch: Batch = {key: [row.get(key) for row in rows] for key in keys}
    image, label = patches.stack(batch["image"]), np.array(batch["label"], np.int64)
    return batch | {"image": image, "label": label, "bad_image": bad}


def _read_options(threads: int, buffer: int) -> Any:
    import grain

    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
