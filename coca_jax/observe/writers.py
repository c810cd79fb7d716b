"""Metrics on disk: `metrics.jsonl`, one JSON object a line, and TensorBoard's event files.

An object store cannot append to a file. There `metrics.jsonl` goes on in `metrics.00001.jsonl` and
so on, each about `PART_BYTES` long, so that a log point copies no more than that.
"""

import contextlib
import io
import json
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

from etils import epath

from coca_jax.errors import UserError
from coca_jax.io.background import hush
from coca_jax.io.files import read_bytes, write_whole
from coca_jax.io.folders import children
from coca_jax.io.messages import cause
from coca_jax.io.paths import as_path, is_url
from coca_jax.io.spool import Spool
from coca_jax.io.stored import is_number, is_step, left_out

FILE = "metrics.jsonl"
PART_BYTES = 256 << 10
_PART = re.compile(r"metrics(?:\.(\d{5,}))?\.jsonl")
_QUEUE = 10_000  # values that wait for TensorBoard's thread; where it has ended, more would block


class MetricWriter:
    """Appends scalars to `metrics.jsonl` and `tensorboard/` of a workdir.

    A value that is not finite is written as null, so that every line is valid JSON; TensorBoard
    gets it as it is. Lines are flushed as they are written; at a URL they are sent then, too, in
    the background. One process of a run has a writer.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens the files.

        Args:
          workdir: the run's folder, made if missing.
          resume_step: the step the run goes on from. What an earlier attempt wrote beyond it is
            dropped, so that curves have no step twice. None keeps everything.
        """
        self._workdir = as_path(workdir)
        self._spool = Spool(self._workdir) if is_url(str(self._workdir)) else None
        self._folder = as_path(self._spool.folder) if self._spool else self._workdir
        self._folder.mkdir(parents=True, exist_ok=True)
        _keep_lines(self._workdir, resume_step)
        parts = _parts(self._workdir)
        self._number = _number(parts[-1]) if parts else 0
        if self._spool and parts:  # goes on in the last part
            (self._folder / parts[-1].name).write_bytes(parts[-1].read_bytes())
        self._file = (self._folder / _name(self._number)).open("a")
        self._open_board(None if resume_step is None else resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Writes scalars (Python, NumPy or JAX) under their names, such as train/loss.

        Raises:
          UserError: the disk is full, say.
        """
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        try:
            self._file.write(json.dumps({"step": int(step), **finite}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._file.name} cannot be written: {cause(error)}") from error
        # Its writing thread ends where the disk is full, and then its queue would block for ever.
        if self._board.file_writer.event_writer._worker.is_alive():
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._spool:
            self._send()

    def close(self) -> None:
        """Closes both files; TensorBoard's is flushed, and what is at a URL is sent.

        Raises:
          UserError: it could not be sent.
        """
        with contextlib.suppress(OSError):  # already told by the write that failed
            self._file.close()
        with contextlib.suppress(OSError):
            self._board.close()
        if self._spool:
            with self._told():
                self._spool.close()

    def _send(self) -> None:
        """Copies what is new to the store, and begins new files where these are large."""
        self._board.flush()
        with self._told():
            self._spool.sync()
        if self._file.tell() >= PART_BYTES:
            self._file.close()
            self._number += 1
            self._file = (self._folder / _name(self._number)).open("a")
            self._board.close()
            self._open_board(None)

    @contextlib.contextmanager
    def _told(self) -> Any:
        try:
            yield
        except Exception as error:  # the packages of stores have errors of their own
            name = type(error).__name__
            raise UserError(f"{self._workdir / FILE} cannot be written: {name}: {error}") from error

    def _open_board(self, purge_step: int | None) -> None:
        from tensorboardX import SummaryWriter  # half a second that readers need not pay

        hush()
        self._board = SummaryWriter(
            str(self._folder / "tensorboard"),
            purge_step=purge_step,
            max_queue=_QUEUE,
            filename_suffix=f".{time.time_ns()}",  # or two writers of one second share a file
        )

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` in order, null as NaN; none if there is no file.

    A line cut short by a kill is left out, and so are damaged ones, which are counted on standard
    error.
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
    found = [path for path in children(workdir) if _PART.fullmatch(path.name)]
    return sorted(found, key=_number)


def _lines(path: epath.Path) -> list[str]:
    return list(io.StringIO(read_bytes(path).decode(errors="replace")))  # ends are \n only


def _keep_lines(workdir: epath.Path, last_step: int | None) -> None:
    """Rewrites parts, atomically, without truncated lines and those after `last_step`, if given."""
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
    """Returns the line's record, or None if the line is truncated, or holds something else."""
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
