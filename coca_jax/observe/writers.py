"""Metrics on disk: `metrics.jsonl`, one JSON object a line, and TensorBoard's event files.

An object store cannot append to a file. There `metrics.jsonl` goes on in `metrics.00001.jsonl` and
so on, each about `PART_BYTES` long, so that a log point copies no more than that.

Every writer in `writers` gets every metric. A configuration file adds one of its own:

    @writers.register("print")
    class PrintWriter:
        def __init__(self, workdir, resume_step): ...
        def write(self, step, values): ...
        def close(self): ...
"""

import contextlib
import io
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, SupportsFloat

from etils import epath

from coca_jax.errors import UserError
from coca_jax.io.background import hush
from coca_jax.io.files import read_bytes, write_whole
from coca_jax.io.folders import children
from coca_jax.io.messages import cause
from coca_jax.io.paths import as_path, is_url
from coca_jax.io.spool import Spool
from coca_jax.io.stored import is_number, is_step, left_out
from coca_jax.registry import Registry

FILE = "metrics.jsonl"
PART_BYTES = 256 << 10
_PART = re.compile(r"metrics(?:\.(\d{5,}))?\.jsonl")
_QUEUE = 10_000  # values that wait for TensorBoard's thread; where it has ended, more would block


class Writer(Protocol):
    """A place for metrics.

    It is made of the run's folder and the step that the run goes on from: metrics of later steps,
    by an earlier attempt, are to be dropped. None keeps everything.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None): ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars under their names, such as train/loss; some may not be finite."""

    def close(self) -> None:
        """Sends what is not written yet, and closes the files."""


writers: Registry[type[Writer]] = Registry(
    "metrics writer",
    {
        "jsonl": "coca_jax.observe.writers:JsonlWriter",
        "tensorboard": "coca_jax.observe.writers:TensorBoardWriter",
    },
)


class MetricWriter:
    """All registered writers of a run, as one. One process of a run has it."""

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens the writers.

        Args:
          workdir: the run's folder, made if missing.
          resume_step: the step the run goes on from. Metrics that an earlier attempt wrote of
            later steps are dropped, so that curves have no step twice. None keeps everything.
        """
        self._writers = [writers[name](workdir, resume_step) for name in writers]

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Writes scalars (Python, NumPy or JAX) under their names, such as train/loss.

        Raises:
          UserError: a file cannot be written, because the disk is full for example.
        """
        values = {name: float(value) for name, value in metrics.items()}
        for writer in self._writers:
            writer.write(int(step), values)

    def close(self) -> None:
        """Closes all writers.

        Raises:
          UserError: what is left could not be sent to a store.
        """
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(writer.close)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Files:
    """Growing files of a folder, which are sent to it in the background where it is at a URL."""

    def __init__(self, target: epath.Path):
        self._target = target
        self.spool = Spool(target) if is_url(str(target)) else None
        self.folder = as_path(self.spool.folder) if self.spool else target
        self.folder.mkdir(parents=True, exist_ok=True)

    def send(self) -> None:
        """Begins to copy what is new."""
        if self.spool:
            with self._named_errors():
                self.spool.sync()

    def close(self) -> None:
        """Copies the rest."""
        if self.spool:
            with self._named_errors():
                self.spool.close()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the packages of stores have errors of their own
            name = type(error).__name__
            raise UserError(
                f"metrics in {self._target} cannot be written: {name}: {error}"
            ) from error


class JsonlWriter:
    """Appends a line for each log point to `metrics.jsonl`, at once.

    A value that is not finite is written as null, so that every line is valid JSON.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens the file, or its last part; see `MetricWriter`."""
        workdir = as_path(workdir)
        self._files = _Files(workdir)
        _keep_lines(workdir, resume_step)
        parts = _parts(workdir)
        self._number = _number(parts[-1]) if parts else 0
        if self._files.spool and parts:  # goes on in the last part
            (self._files.folder / parts[-1].name).write_bytes(parts[-1].read_bytes())
        self._open()

    def _open(self) -> None:
        self._file = (self._files.folder / _name(self._number)).open("a")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line; see `MetricWriter.write`."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._file.name} cannot be written: {cause(error)}") from error
        self._files.send()
        if self._files.spool and self._file.tell() >= PART_BYTES:
            self._file.close()
            self._number += 1
            self._open()

    def close(self) -> None:
        """Closes the file; a line that failed to be written has raised its error already."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._files.close()


class TensorBoardWriter:
    """Writes event files to `tensorboard/`; on a store, a new one where the last is large."""

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens a new file; see `MetricWriter`."""
        self._files = _Files(as_path(workdir) / "tensorboard")
        self._open(None if resume_step is None else resume_step + 1)

    def _open(self, purge_step: int | None) -> None:
        from tensorboardX import SummaryWriter  # half a second that readers need not pay

        hush()
        suffix = f".{time.time_ns()}"  # or two writers of one second share a file
        self._board = SummaryWriter(
            str(self._files.folder),
            purge_step=purge_step,
            max_queue=_QUEUE,
            filename_suffix=suffix,
        )
        (self._path,) = self._files.folder.glob(f"*{suffix}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Queues the values for the writing thread."""
        # That thread ends where the disk is full, and then its queue would block for ever.
        if self._board.file_writer.event_writer._worker.is_alive():
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if not self._files.spool:
            return
        self._board.flush()
        self._files.send()
        if self._path.stat().length >= PART_BYTES:
            self._board.close()
            self._open(None)

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        with contextlib.suppress(OSError):
            self._board.close()
        self._files.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in order, null as NaN; empty if there is no file.

    A line that a kill has cut short is left out. So are damaged lines, whose number is printed on
    standard error.
    """
    records = []
    for part in _parts(as_path(workdir)):
        lines = _lines(part)
        parsed = [_parse(line) for line in lines]
        damaged = [i for i, r in enumerate(parsed, 1) if r is None and lines[i - 1].endswith("\n")]
        if damaged:
            left_out(part, f"has {len(damaged):,} damaged lines, such as line {damaged[0]:,}")
        records += [record for record in parsed if record is not None]
    return [
        {k: v if k == "step" else math.nan if v is None else float(v) for k, v in record.items()}
        for record in records
    ]


def _name(number: int) -> str:
    return f"metrics.{number:05}.jsonl" if number else FILE


def _number(part: epath.Path) -> int:
    return int(_PART.fullmatch(part.name)[1] or 0)


def _parts(workdir: epath.Path) -> list[epath.Path]:
    """The files of the metrics, in the order in which they were written."""
    parts = [path for path in children(workdir) if _PART.fullmatch(path.name)]
    return sorted(parts, key=_number)


def _lines(path: epath.Path) -> list[str]:
    return list(io.StringIO(read_bytes(path).decode(errors="replace")))  # ends are \n only


def _keep_lines(workdir: epath.Path, last_step: int | None) -> None:
    """Rewrites the parts without truncated lines, and without those after `last_step` if given."""
    for path in _parts(workdir):
        lines = _lines(path)
        records = [_parse(line) for line in lines]
        kept = [
            line
            for line, record in zip(lines, records, strict=True)
            if record is not None and (last_step is None or record["step"] <= last_step)
        ]
        if len(kept) < len(lines):
            write_whole(path, "".join(kept).encode())


def _parse(line: str) -> dict[str, Any] | None:
    """The line's record; None if the line is truncated, or holds something else."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not is_step(record.get("step")):
        return None
    good = (v is None or isinstance(v, float) or is_number(v) for v in record.values())
    return record if all(good) else None
