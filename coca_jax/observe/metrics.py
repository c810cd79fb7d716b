"""Metrics on disk: `metrics.jsonl`, one JSON object a line, and TensorBoard's event files."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, SupportsFloat

from coca_jax.errors import UserError

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends scalars to `metrics.jsonl` and `tensorboard/` of a workdir.

    A value that is not finite is written as null, so that every line is valid JSON; TensorBoard
    gets it as it is. Lines are flushed as they are written. One process of a run has a writer.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens the files.

        Args:
          workdir: the run's folder, made if missing.
          resume_step: the step the run goes on from. What an earlier attempt wrote beyond it is
            dropped, so that curves have no step twice. None keeps everything.
        """
        from tensorboardX import SummaryWriter  # half a second that readers need not pay

        path = pathlib.Path(workdir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_lines(path, resume_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(path.parent / "tensorboard"),
            purge_step=None if resume_step is None else resume_step + 1,
            filename_suffix=f".{time.time_ns()}",  # or two writers of one second share a file
        )

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
            raise UserError(f"{self._file.name} cannot be written: {error}") from error
        # Its writing thread ends where the disk is full, and then its queue would block for ever.
        if self._board.file_writer.event_writer._worker.is_alive():
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes both files; TensorBoard's is flushed."""
        with contextlib.suppress(OSError):  # already told by the write that failed
            self._file.close()
        self._board.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` in order, null as NaN; none if there is no file.

    A line cut short by a kill is left out.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        records = [record for line in file if (record := _parse(line)) is not None]
    return [{k: math.nan if v is None else v for k, v in record.items()} for record in records]


def _keep_lines(path: pathlib.Path, last_step: int | None) -> None:
    """Rewrites the file, atomically, without torn lines and those after `last_step`, if given."""
    if not path.exists():
        return
    partial = path.with_name(path.name + ".partial")
    with (
        path.open(encoding="utf-8", errors="replace") as old,
        partial.open("w", encoding="utf-8") as new,
    ):
        for line in old:
            record = _parse(line)
            if record is not None and (last_step is None or record["step"] <= last_step):
                new.write(line)
        new.flush()
        os.fsync(new.fileno())
    partial.replace(path)


def _parse(line: str) -> dict[str, Any] | None:
    """Returns the line's record, or None if the line is torn."""
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "step" in record else None
