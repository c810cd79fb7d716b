"""Evaluation results on paper: the printed table, the JSON file, and the report's artifacts."""

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from coca_jax.config import differences
from coca_jax.evaluate.metrics.undefined import Undefined, reasons
from coca_jax.io.files import read_bytes, write_whole
from coca_jax.io.folders import children
from coca_jax.io.locks import locked
from coca_jax.io.paths import as_path
from coca_jax.io.stored import (
    EVAL_OPTIONS,
    Damaged,
    are_metrics,
    fits,
    is_number,
    left_out,
    read_json,
)

LOCK_TIMEOUT_S = 60.0  # seconds for another process that evaluates the same step

ARTIFACTS = "artifacts.json"  # of a step's folder
STEP_FILE = re.compile(r"[0-9]+\.json")

# A list of numbers, one a line: within strings there are no line breaks.
NUMBERS = re.compile(r"\[\n *[-+.\de]+(,\n *[-+.\de]+)*\n *\]")


def format_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a plain text table, one metric a line, grouped by evaluation.

    Below it stands why metrics have no value, which is `-` in the table.
    """
    rows = [("evaluation", "metric", "value")]
    for evaluation, values in metrics.items():
        for i, (name, value) in enumerate(values.items()):
            rows.append(("" if i else evaluation, name, format_value(value)))
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{a:<{first}}  {b:<{second}}  {c:>{third}}" for a, b, c in rows]
    rule = "─" * len(lines[0])
    grouped = [f"{rule}\n{line}" if row[0] else line for row, line in zip(rows, lines, strict=True)]
    notes = [
        f"{evaluation}.{name} is undefined: {reason}"
        for evaluation, values in metrics.items()
        for name, reason in reasons(values).items()
    ]
    return "\n".join([*grouped, rule, *notes])


def format_value(value: float) -> str:
    """Returns whole numbers with thousands separators, others with four decimals or a power."""
    if isinstance(value, Undefined):
        return "-"
    if float(value).is_integer() and abs(value) > 1:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.4f}"


def write_results(
    workdir: str | os.PathLike,
    step: int,
    metrics: Mapping[str, Mapping[str, float]],
    artifacts: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> epath.Path:
    """Writes `eval/<step>.json` and, for the report, `eval/<step>/artifacts.json` with images.

    The evaluations' options, `config.eval`, are kept in `eval/<step>/options.json`: of two steps
    the values can be compared if they are equal.

    What other evaluations have left there of this step stays. Results of the same name are
    replaced, with a line on standard error if they were measured with other options. A number that
    is not finite becomes null; the evaluation's `notes` say why a metric is undefined, by the
    metric's name. A bytes value in the artifacts is a JPEG file: it is written next to the JSON,
    named after its content, and replaced by that name. Each of an evaluation's `files` is one of
    its own, `<evaluation>.<name>.json`.

    Returns:
      The path of `eval/<step>.json`.
    """
    folder = as_path(workdir) / "eval" / str(step)
    with locked(folder, "written", LOCK_TIMEOUT_S):
        used = {name: section for name, section in (options or {}).items() if name in metrics}
        stored = _read(folder / EVAL_OPTIONS, dict) if used else {}
        _warn_of_replaced(workdir, step, stored, used)
        path = _write(folder, metrics, artifacts)
        if used:  # last: what stops in between is measured again, as its options are the old ones
            write_json(stored | used, folder / EVAL_OPTIONS)
        return path


def _warn_of_replaced(
    workdir: str | os.PathLike, step: int, stored: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Says on standard error which results are replaced by those of other options."""
    changed = {
        name: lines
        for name in stored.keys() & options.keys()
        if (lines := differences(stored[name], options[name], ()))
    }
    results = read_step(workdir, step) if changed else {}
    for name in sorted(changed.keys() & results.keys()):
        metric, value = next(iter(results[name].items()))
        shown = f" {format_value(value)}" if is_number(value) else ""
        keys = "; ".join(line.removeprefix("config.") for line in changed[name])
        print(
            f"warning: eval.{name} replaces {name}/{metric}{shown}, which was measured with other "
            f"options: {keys}",
            file=sys.stderr,
        )


def _write(
    folder: epath.Path, metrics: Mapping[str, Mapping[str, float]], artifacts: Mapping[str, Any]
) -> epath.Path:
    for evaluation, found in artifacts.items():
        for old in children(folder):
            of_it = old.name.startswith(f"{evaluation}.") and old.name.endswith(".json")
            if of_it and old.name not in (EVAL_OPTIONS, ARTIFACTS):
                old.unlink()
        for name, content in found.get("files", {}).items():
            write_json(content, folder / f"{evaluation}.{name}.json")
    drawn = {
        name: {key: value for key, value in found.items() if key != "files"}
        for name, found in artifacts.items()
    }
    drawn = _read(folder / ARTIFACTS, dict) | _with_files(drawn, folder)
    write_json(drawn, folder / ARTIFACTS)
    shown = read_bytes(folder / ARTIFACTS).decode()
    for path in children(folder):
        if path.suffix == ".jpg" and path.name not in shown:
            path.unlink()
    path = folder.with_suffix(".json")
    write_json(_read(path, are_metrics) | metrics, path)
    return path


def read_step(workdir: str | os.PathLike, step: int) -> dict[str, dict[str, Any]]:
    """Returns what `eval/<step>.json` holds: evaluation -> metric -> number or None, and `notes`.

    Nothing if it is not there. What is damaged in it is left out, and named on standard error.
    """
    return _read(as_path(workdir) / f"eval/{step}.json", are_metrics)


def measured(workdir: str | os.PathLike, step: int, options: Mapping[str, Any]) -> set[str]:
    """Returns the evaluations that have results of a step, measured with these options.

    Results whose options are not known, which older versions wrote, count.

    Args:
      workdir: the folder of the run.
      step: the one that was evaluated.
      options: `config.eval` as JSON.
    """
    stored = _read(as_path(workdir) / "eval" / str(step) / EVAL_OPTIONS, dict)
    done = read_step(workdir, step)
    return {name for name in done if stored.get(name) in (None, options.get(name))}


def read_newest(workdir: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Returns the `eval/<step>.json` of the last step that has one; empty if none has."""
    steps = [int(path.stem) for path in step_files(workdir)]
    return read_step(workdir, max(steps)) if steps else {}


def step_files(workdir: str | os.PathLike) -> list[epath.Path]:
    """The files `eval/<step>.json` of a run, in the order of the steps."""
    paths = children(as_path(workdir) / "eval")
    return sorted((p for p in paths if STEP_FILE.fullmatch(p.name)), key=lambda p: int(p.stem))


def _read(path: epath.Path, shape: Any) -> dict[str, Any]:
    """The evaluations in a file whose content has the shape that is written there."""
    try:
        evaluations = read_json(path)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        left_out(path, f"{error}; it is written anew by the next evaluation of this step")
        return {}
    good = {name: content for name, content in evaluations.items() if fits(content, shape)}
    if wrong := evaluations.keys() - good.keys():
        left_out(path, f"has damaged evaluations, which do not count: {', '.join(sorted(wrong))}")
    return good


def write_json(value: Any, path: str | os.PathLike) -> None:
    """Writes the file whole or not at all; numbers that are not finite become null.

    What has undefined metrics gets `notes`, with the reason of each by its name. A list of numbers
    is one line.
    """
    text = json.dumps(_finite(value), indent=1, allow_nan=False, ensure_ascii=False)
    text = NUMBERS.sub(lambda match: " ".join(match[0].split()), text)
    # Half of a surrogate pair, which other people's JSON may hold, stays the escape that it was.
    write_whole(path, text.encode(errors="backslashreplace"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        notes = reasons(value)
        finite = {key: _finite(item) for key, item in value.items()}
        return finite | ({"notes": notes} if notes else {})
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_files(value: Any, folder: epath.Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_files(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_files(item, folder) for item in value]
    if not isinstance(value, bytes):
        return value
    name = hashlib.sha256(value).hexdigest()[:16] + ".jpg"
    write_whole(folder / name, value)
    return name
