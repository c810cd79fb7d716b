"""`metrics.jsonl`: one JSON object a line.

An object store cannot append to a file. There `metrics.jsonl` goes on in `metrics.00001.jsonl` and
so on, each about `PART_BYTES` long, so that a log point copies no more than that.
"""

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from coca_jax.errors import UserError
from coca_jax.io.files import read_bytes, write_whole
from coca_jax.io.folders import children
from coca_jax.io.messages import cause, counted
from coca_jax.io.paths import as_path
from coca_jax.io.stored import is_number, is_step, left_out
from coca_jax.observe.writers import files

FILE = "metrics.jsonl"
_PART = re.compile(r"metrics(?:\.(\d{5,}))?\.jsonl")


class JsonlWriter:
    """Appends a line for each log point to `metrics.jsonl`, at once.

    A value that is not finite is written as null, so that every line is valid JSON.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens the file, or its last part; see `MetricWriter`."""
        workdir = as_path(workdir)
        self._files = files.GrowingFiles(workdir)
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
        if self._files.spool and self._file.tell() >= files.PART_BYTES:
            self._file.close()
            self._number += 1
            self._open()

    def close(self) -> None:
        """Closes the file; a line that failed to be written has raised its error already."""
        with contextlib.suppress(OSError):
            self._file.close()
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
        damaged = [i for i, r in enumerate(parsed, 1) if r is None and lines[i - 1].endswith(b"\n")]
        if damaged:
            words = f"damaged lines, such as line {damaged[0]:,}"
            left_out(part, f"has {counted(len(damaged), words)}")
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


def _lines(path: epath.Path) -> list[bytes]:
    return list(io.BytesIO(read_bytes(path)))  # ends are \n only


def _keep_lines(workdir: epath.Path, last_step: int | None) -> None:
    """Rewrites the parts without truncated lines, and without those after `last_step` if given.

    Lines that are not read, such as one to which a user added a text, stay as they are.
    """
    for path in _parts(workdir):
        lines = _lines(path)
        kept = [line for line in lines if line.endswith(b"\n") and not _is_after(line, last_step)]
        if len(kept) < len(lines):
            write_whole(path, b"".join(kept))


def _is_after(line: bytes, last_step: int | None) -> bool:
    record = _record(line)
    return record is not None and last_step is not None and record["step"] > last_step


def _parse(line: bytes) -> dict[str, Any] | None:
    """The line's record; None if the line is truncated, or holds something else."""
    record = _record(line) if line.endswith(b"\n") else None
    if record is None:
        return None
    good = (v is None or isinstance(v, float) or is_number(v) for v in record.values())
    return record if all(good) else None


def _record(line: bytes) -> dict[str, Any] | None:
    """The object with a step that the line holds, whatever else is in it; None for others."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and is_step(record.get("step")) else None
