"""Computes the results of a data set: reading, the model and writing go on at the same time."""

import bisect
import contextlib
import datetime
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from coca_jax.batch_inference.data import Part
from coca_jax.batch_inference.output import Output, PartRecord
from coca_jax.batch_inference.tasks import Column, Columns, Task
from coca_jax.data.results import ID_COLUMNS
from coca_jax.data.sources import Record, Source
from coca_jax.data.texts import to_present_captions
from coca_jax.data.transforms import images, multi_image
from coca_jax.errors import Preempted
from coca_jax.io import files
from coca_jax.io.messages import counted
from coca_jax.io.origins import is_network_error
from coca_jax.io.stored import finite
from coca_jax.io.visible import visible
from coca_jax.patches import Images, Target, stack

READ_AHEAD = 256  # records that are read before they are needed
CHUNK = 16  # records that a thread reads at a time: passing one on takes as long as reading it
AHEAD = 2  # batches that wait for the model, or whose results wait to be collected
SHOWN = 20  # unusable records that are named on standard error


class Summary(NamedTuple):
    """What a run has done, and found done."""

    parts: int  # all of this process's
    results: int  # of them, those of earlier runs included
    bad: int  # records without a result


class _Row(NamedTuple):
    """A record as it was read."""

    index: int  # in its shard
    record: Record  # without its image
    pixels: Images | None
    reason: str  # why it has no result; empty: it is usable

    @property
    def key(self) -> str:
        return self.record.get("key") or f"{self.index:09d}"


class _Batch(NamedTuple):
    part: Part
    rows: list[_Row]  # usable ones
    bad: list[_Row]
    is_last: bool  # of its part


def run(
    source: Source,
    parts: Sequence[Part],
    task: Task,
    output: Output,
    image_size: Target,
    *,
    resizing: images.Resizing = images.COVERING,
    batch_size: int = 64,
    threads: int = 4,
    keep: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Writes the results of all parts that are not done yet.

    Batches do not cross parts, so that the results of a part depend on its records alone, and
    samples also on the size of a batch.

    Args:
      source: of the records.
      parts: this process's share of `data.split`.
      task: what is computed.
      output: the folder, after `open`.
      image_size: height and width in pixels of the model's images, or a budget of patches.
      resizing: of images to that size.
      batch_size: images of a batch.
      threads: that read and decode.
      keep: whether a column `stored` has everything else that is stored with a record, as JSON.
      should_stop: asked after each batch.

    Raises:
      Preempted: `should_stop` was true; the parts that were done by then stay.
      UserError: results were written of a shard that has changed.
      OSError, or what the store's package raises: the data cannot be read now; no file is written
        of a part that this concerns.
    """
    done = output.done(parts)
    todo = [part for part in parts if part.name not in done]
    rows = _rows(source, todo, _Loader(source, image_size, resizing, task), threads)
    results = _Results(task, keep)
    with (
        contextlib.closing(rows),
        ThreadPoolExecutor(AHEAD) as models,
        ThreadPoolExecutor(1) as writer,
        _Progress(todo, len(parts)) as progress,
    ):
        output_files = _Files(output, writer, list(done.values()), progress)
        for batch, columns in _computed(_batches(rows, todo, batch_size), task, models):
            results.add(batch, columns)
            progress.read(batch)
            if batch.is_last:
                output_files.write(batch.part, *results.take())
            if should_stop():
                count = len(output_files.written())
                raise Preempted(f"stopped with {count:,} of {len(parts):,} files written")
        records = output_files.written()
    return Summary(len(parts), sum(r.results for r in records), sum(len(r.bad) for r in records))


class _Files:
    """Writes the files of parts one after the other, while later results are computed."""

    def __init__(
        self,
        output: Output,
        writer: ThreadPoolExecutor,
        records: list[PartRecord],
        progress: "_Progress",
    ):
        self._output, self._writer, self._progress = output, writer, progress
        self._records = records  # of the files that are there
        self._writes: deque[Future[PartRecord]] = deque()

    def write(self, part: Part, columns: Columns, bad: list[list[Any]]) -> None:
        """Begins to write a part; waits for the one before, so that no more are in memory."""
        self.written()
        self._writes.append(self._writer.submit(self._output.write, part, columns, bad))

    def written(self) -> list[PartRecord]:
        """Waits for all files; returns the records of their parts."""
        while self._writes:
            self._records.append(self._writes.popleft().result())
            self._progress.wrote(len(self._records), self._records[-1])
        return self._records


class _Loader:
    """Reads records and decodes their images."""

    def __init__(self, source: Source, image_size: Target, resizing: images.Resizing, task: Task):
        self._source, self._size, self._task = source, image_size, task
        self._resizing = resizing

    def __call__(self, number: int, index: int) -> _Row:
        """The record of this number, which has this index in its shard."""
        record: Record = {}
        try:
            record = dict(self._source[number])
            record |= to_present_captions(record["captions"])
            image = multi_image.decode_images(record.pop("image"))[0]
            pixels = images.prepare(image, self._size, self._resizing)
        except Exception as error:  # whatever a reader raises for a damaged record
            if self._is_of_environment(error, number):
                raise
            return _Row(index, record, None, str(error) or type(error).__name__)
        return _Row(index, record, pixels, self._task.why_unusable(record))

    def _is_of_environment(self, error: Exception, number: int) -> bool:
        """Whether the record may be fine: a store does not answer, or its shard is gone."""
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            shard = self._source.shard(number)
            return not (files.is_file(shard) or os.path.isdir(shard))
        is_system = isinstance(error, OSError | MemoryError) and not isinstance(error, EOFError)
        return is_system or is_network_error(error)


def _rows(source: Source, parts: Sequence[Part], loader: _Loader, threads: int) -> Iterator[_Row]:
    """Yields the records of parts in order; threads read some of them ahead."""
    import grain

    ends = list(itertools.accumulate(part.count for part in parts))

    def load(chunk: int) -> tuple[list[_Row]]:
        positions = range(chunk * CHUNK, min((chunk + 1) * CHUNK, ends[-1]))
        return (list(map(load_one, positions)),)

    def load_one(position: int) -> _Row:
        number = bisect.bisect_right(ends, position)
        part = parts[number]
        offset = position - ends[number] + part.count
        return loader(part.start + offset, part.first + offset)

    if not ends:
        return
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=READ_AHEAD // CHUNK)
    chunks = grain.MapDataset.range(-(-ends[-1] // CHUNK)).map(load)
    iterator = iter(chunks.to_iter_dataset(options))
    try:
        for (rows,) in iterator:
            yield from rows
    finally:
        iterator.close()


def _batches(rows: Iterator[_Row], parts: Sequence[Part], size: int) -> Iterator[_Batch]:
    for part in parts:
        good: list[_Row] = []
        bad: list[_Row] = []
        for row in itertools.islice(rows, part.count):
            if max(len(good), len(bad)) == size:
                yield _Batch(part, good, bad, False)
                good, bad = [], []
            (bad if row.reason else good).append(row)
        yield _Batch(part, good, bad, True)


def _computed(
    batches: Iterator[_Batch], task: Task, models: ThreadPoolExecutor
) -> Iterator[tuple[_Batch, Columns]]:
    """Yields batches in order with their results, while later ones are computed."""
    pending: deque[tuple[_Batch, Future[Columns]]] = deque()
    for batch in batches:
        pending.append((batch, models.submit(_compute, task, batch)))
        if len(pending) > AHEAD:
            batch, columns = pending.popleft()
            yield batch, columns.result()
    for batch, columns in pending:
        yield batch, columns.result()


def _compute(task: Task, batch: _Batch) -> Columns:
    if not batch.rows:
        return {}
    pixels = stack([row.pixels for row in batch.rows])
    place = f"{batch.part.shard.name}:{batch.rows[0].index}"
    return task(pixels, [row.record for row in batch.rows], place)


class _Results:
    """Collects the results of one part after the other."""

    def __init__(self, task: Task, keep: bool):
        names = (*ID_COLUMNS, *task.columns, *(["stored"] if keep else []))
        self._names, self._keep = names, keep
        self._begin()

    def _begin(self) -> None:
        self._columns: dict[str, list[Column]] = {name: [] for name in self._names}
        self._bad: list[list[Any]] = []

    def add(self, batch: _Batch, columns: Columns) -> None:
        """Adds a batch of the part."""
        source = batch.part.shard.name
        ids = [(_text(row.key), _text(source), row.index) for row in batch.rows]
        if ids:
            for name, values in zip(ID_COLUMNS, zip(*ids, strict=True), strict=True):
                self._columns[name].append(values)
            for name, values in columns.items():
                self._columns[name].append(values)
            if self._keep:
                self._columns["stored"].append([_stored(row.record) for row in batch.rows])
        self._bad += [[row.index, _text(row.key), row.reason] for row in batch.bad]

    def take(self) -> tuple[Columns, list[list[Any]]]:
        """The columns of the part and its unusable records; the next part begins."""
        columns = {name: _joined(parts) for name, parts in self._columns.items()}
        bad = self._bad
        self._begin()
        return columns, bad


def _text(name: str) -> str:
    """A name as UTF-8 can hold it: bytes of a file's name that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _joined(parts: list[Column]) -> Column:
    if parts and isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return list(itertools.chain.from_iterable(parts))


def _stored(record: Record) -> str:
    """Everything that is stored with an image, as JSON."""
    stored: dict[str, Any] = {"captions": record["captions"]}
    if record["labels"]:
        stored["labels"] = record["labels"]
    elif record["label"] >= 0:  # the number of a class without a name
        stored["label"] = record["label"]
    # A field of one of these names is left out: the captions may be others than its own.
    return json.dumps(finite(stored | record["fields"] | stored), default=str)


class _Progress:
    """A bar on a terminal, elsewhere a line for each file; and the unusable records."""

    def __init__(self, todo: Sequence[Part], total: int):
        self._count, self._total = sum(part.count for part in todo), total
        self._shown, self._read, self._start = 0, 0, time.monotonic()
        self._bar = tqdm(total=self._count, unit="image", disable=None, dynamic_ncols=True)
        if len(todo) < total:
            there = f"{total - len(todo):,} of {counted(total, 'files are there already')}"
            print(there, file=sys.stderr)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def read(self, batch: _Batch) -> None:
        """Notes a batch, and names its unusable records."""
        self._read += len(batch.rows) + len(batch.bad)
        self._bar.update(len(batch.rows) + len(batch.bad))
        for row in batch.bad[: SHOWN - self._shown]:
            line = f"{batch.part.shard.name}, record {row.index} ({row.key}): {row.reason}"
            tqdm.write(visible(line), file=sys.stderr)
        self._shown = min(SHOWN, self._shown + len(batch.bad))

    def wrote(self, files: int, record: PartRecord) -> None:
        """Notes a file."""
        if not self._bar.disable:
            return
        speed = max(self._read, 1) / (time.monotonic() - self._start)
        left = datetime.timedelta(seconds=round((self._count - self._read) / speed))
        bad = f", {counted(len(record.bad), 'unusable records')}" if record.bad else ""
        print(
            f"{files:,} of {self._total:,} files ({record.shard[0]}: "
            f"{counted(record.results, 'results')}"
            f"{bad}; {speed:,.0f} images/s; {left} left)",
            file=sys.stderr,
            flush=True,
        )
