"""Streams: the batches of training and of evaluation.

A training batch is a pure function of (config, examples seen): resuming needs that one integer,
and the global batch is the same for any number of processes and threads.
"""

import hashlib
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from coca_jax.data.examples import Fault
from coca_jax.data.mixture import Mixture, Pick
from coca_jax.data.sources import Source
from coca_jax.data.texts import to_captions
from coca_jax.data.transforms import images, multi_image
from coca_jax.errors import UserError
from coca_jax.io.parent import end_with_parent

Example = dict[str, Any]
Batch = dict[str, Any]


class TrainStream:
    """An endless stream of shuffled examples; every epoch has its own order.

    Args:
      mixture: says which record stands at which place of the stream.
      make_batch: makes a batch of picked records, given a random generator for each; its "faults"
        are kept here, and all else is given out.
      batch_size: examples of the global batch, of all processes together.
      seed: of the generators.
      process_index: whose rows of the global batch to make.
      process_count: number of processes, which share the batch equally.
      threads: that make batches at the same time, in each worker.
      workers: processes that make batches; 0: this one does.

    Attributes:
      faults: how many examples of this process were replaced, by shard and kind.
    """

    def __init__(
        self,
        mixture: Mixture,
        make_batch: Callable[[Sequence[Pick], Sequence[np.random.Generator]], Batch],
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 16,
        workers: int = 0,
    ):
        if batch_size % process_count:
            raise UserError(
                f"batch size {batch_size} is not divisible by the {process_count} processes"
            )
        self.mixture, self.make_batch, self._seed = mixture, make_batch, seed
        self._batch_size, self._local_size = batch_size, batch_size // process_count
        self._process_index, self._threads, self._workers = process_index, threads, workers
        self.faults: Counter[Fault] = Counter()

    def batches(self, examples_seen: int = 0) -> Iterator[Batch]:
        """This process's rows of the batches that follow the first `examples_seen` examples."""
        import grain

        numbers = grain.MapDataset.range(sys.maxsize)
        first = examples_seen + self._local_size * self._process_index
        batches = numbers.map(
            _LocalBatch(
                self.mixture,
                self.make_batch,
                self._seed,
                first,
                self._batch_size,
                self._local_size,
            )
        ).to_iter_dataset(_read_options(self._threads, self._threads))
        if self._workers:
            _parse_flags()
            options = grain.multiprocessing.MultiprocessingOptions(num_workers=self._workers)
            batches = batches.mp_prefetch(options, worker_init_fn=_obey_parent)
        iterator = iter(batches)
        try:
            for batch in iterator:
                self.faults.update(batch.pop("faults", ()))
                yield batch
        finally:
            iterator.close()

    def worst_shards(self, count: int = 3) -> str:
        """The shards with the most examples that were bad, in words; empty if there were none."""
        bad: Counter[str] = Counter()
        for fault, times in self.faults.items():
            if fault.kind.startswith("bad_"):
                bad[fault.shard] += times
        return ", ".join(f"{shard} ({times})" for shard, times in bad.most_common(count))


class _LocalBatch(NamedTuple):
    """From the number of a batch to one process's rows of it; goes to the worker processes."""

    mixture: Mixture
    make_batch: Callable[[Sequence[Pick], Sequence[np.random.Generator]], Batch]
    seed: int
    first: int  # place of the first row of batch 0
    batch_size: int
    local_size: int

    def __call__(self, number: int) -> Batch:
        start = self.first + number * self.batch_size
        places = range(start, start + self.local_size)
        rngs = [np.random.default_rng((self.seed, place)) for place in places]
        return self.make_batch([self.mixture[place] for place in places], rngs)


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
    image_size: tuple[int, int],
    batch_size: int,
    limit: int | None = None,
    threads: int = 16,
    num_images: int = 1,
) -> Iterator[Batch]:
    """Every record once, in order: uint8 images [b, h, w, 3], labels [b] and the lists of texts.

    `index` is a list of the records' numbers in the source, `digest` one of hashes of their bytes.

    If `num_images` > 1, images are [b, num_images, h, w, 3], evenly spaced among a record's.

    The last batch may be smaller. Records that cannot be read or decoded are left out and counted
    in the batch's `bad_image`, and one is named on stderr; with `limit`, only the first so many
    records are read. What is no text among captions is left out, which stderr says, too.

    Raises:
      UserError: no image at all could be read.
    """
    import grain

    reasons: list[str] = []
    no_texts: dict[int, str] = {}  # by record

    def load(index: int) -> Example | None:
        try:
            record = source[index]
            found = multi_image.decode_images(record["image"], num_images)
            found = [images.resize_for_evaluation(picture, image_size) for picture in found]
        except Exception as error:  # whatever a reader raises for a damaged record
            reasons.append(f"record {index} of {source.shard(index)}: {error}")
            return None
        record = {**record, **to_captions(record["captions"])}
        if reason := record.pop("no_text", ""):
            no_texts[index] = reason
        own = {"index": index, "digest": _digest(record["image"])}
        return record | {"image": multi_image.stacked(found)} | own

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
        raise UserError(f"none of the {size} images could be read: {min(reasons, default='')}")
    if reasons:
        print(f"{len(reasons):,} of {size:,} images are left out: {min(reasons)}", file=sys.stderr)
    if no_texts:
        first = min(no_texts)
        print(
            f"captions of {len(no_texts):,} of {size:,} images are left out, the first of record "
            f"{first} of {source.shard(first)}: {no_texts[first]}",
            file=sys.stderr,
        )
    yield _collate(rows, bad)


def _digest(image: bytes | Sequence[bytes]) -> bytes:
    """The same for images that are equal byte for byte."""
    parts = [image] if isinstance(image, bytes) else image
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _collate(rows: list[Example], bad: int) -> Batch:
    batch: Batch = {key: [row[key] for row in rows] for key in rows[0]}
    image, label = np.stack(batch["image"]), np.array(batch["label"], np.int64)
    return batch | {"image": image, "label": label, "bad_image": bad}


def _read_options(threads: int, buffer: int) -> Any:
    import grain

    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
