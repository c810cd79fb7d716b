"""Weights & Biases (extra `wandb`)."""

import dataclasses
import json
import os
import pathlib
import shlex
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coca_jax.errors import UserError
from coca_jax.fields import choice, field, path, several, text
from coca_jax.io.paths import as_path, is_url
from coca_jax.observe.writers.background import CLOSE_SECONDS
from coca_jax.observe.writers.record import configuration, group_of, run_id
from coca_jax.observe.writers.samples import Sample

_BLOCK, _WHOLE, _LAST = 32768, 1, 4  # bytes of a block in a log, and kinds of parts


@dataclasses.dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases: arguments of `wandb.init`; where empty, its WANDB_... variables count.

    The key is not an option: `wandb login` stores it, or WANDB_API_KEY has it.
    """

    project: str = field("", "Project of the run.", text(), resumable=True)
    entity: str = field("", "User or team that has the project.", text(), resumable=True)
    name: str = field("", "Name of the run; empty: the workdir's.", text(), resumable=True)
    group: str = field("", "Group of runs that it belongs to.", text(), resumable=True)
    job_type: str = field("", "Kind of run within the group.", text(), resumable=True)
    notes: str = field("", "Description of the run.", text(), resumable=True)
    tags: tuple[str, ...] = field(
        (), "Tags of the run.", several(text(empty=False)), resumable=True
    )
    mode: str = field(
        "",
        "offline: files only, which `wandb sync` uploads later; empty: online, if WANDB_MODE says "
        "nothing else.",
        choice("", "online", "offline", "disabled"),
        resumable=True,
    )
    dir: str = field(
        "",
        "Folder in which its folder `wandb` is made; empty: the workdir, or the current folder if "
        "that is at a URL.",
        path(),
        resumable=True,
    )


class WandbWriter:
    """A run whose id is the workdir's, so that a resumed run goes on in it.

    The service takes no step below its last one. What a run trains again after a kill is left out,
    therefore, as are evaluations that it repeats. An evaluation of a lower step is not: it gets
    the next step, and its x axis is `eval/<name>/step`. With `log_every=1`, what is trained from
    then on is a step further right.
    """

    options = WandbOptions
    takes_backlog = True

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None, options: WandbOptions):
        """Starts or resumes the run."""
        import wandb

        self._wandb, self._defined = wandb, set[str]()
        self._mode = mode = options.mode or os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.login(prompt=False):
            raise UserError("there is no key: `wandb login`, or set WANDB_API_KEY")
        folder, name = _folder(workdir, options.dir), run_id(workdir)
        offline = _steps_in_files(folder, name)  # before there is a file of this attempt
        given = {k: v for k, v in dataclasses.asdict(options).items() if v and k != "dir"}
        self._run = wandb.init(
            **{"name": os.environ.get("WANDB_NAME", as_path(workdir).name)} | given,
            id=name,
            resume="allow",
            reinit="create_new",  # a sweep has one run after the other
            dir=folder,
            config=configuration(workdir).values,
            settings=wandb.Settings(
                silent=True,
                console=os.environ.get("WANDB_CONSOLE", "off"),  # else it takes over the streams
                finish_timeout=CLOSE_SECONDS,
            ),
        )
        self._before = _latest(offline, self._steps_of_the_service())
        self._trained = self._before.get("train", -1)  # the last step
        self._row = max(self._trained, self._run.starting_step - 1)  # in which it is
        written = shlex.quote(self._run.settings.sync_dir)
        where = f"offline; `wandb sync {written}` uploads it"
        print(f"wandb: {where if mode == 'offline' else self._run.url or mode}", file=sys.stderr)

    def _steps_of_the_service(self) -> dict[str, int]:
        """The last step of each group of metrics that the service has."""
        if not self._run.starting_step:  # a new run
            return {}
        summary = {"train/step": self._run.starting_step - 1} | dict(self._run.summary)
        names = (name for name in summary if _is_axis(name) or name == "train/step")
        return {name.removesuffix("/step"): summary[name] for name in names}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars, but for those that an earlier attempt has written."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            groups.setdefault(group_of(name), {})[name] = value
        for group, part in groups.items():
            self._log(step, group, part)

    def write_samples(self, step: int, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Writes images with their texts as captions."""
        for name, group in samples.items():
            images = [self._wandb.Image(s.pixels(), caption=s.text) for s in group]
            self._log(step, group_of(name), {name: images})

    def _log(self, step: int, group: str, values: dict[str, Any]) -> None:
        if step <= self._before.get(group, -1):
            return
        if group == "train":
            self._log_training(step, values)
            return
        if group not in self._defined:
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
            self._defined.add(group)
        at = max(step, self._run.step, self._before.get("train", -1) + 1)
        self._run.log(values | {f"{group}/step": step}, step=at)

    def _log_training(self, step: int, values: dict[str, Any]) -> None:
        """Writes to the row of this step, or to a later one if an evaluation has that already."""
        self._row = max(step, self._run.step, self._row + (step != self._trained))
        self._trained = step
        self._run.log(values, step=self._row)
        self._run.summary["train/step"] = step  # the service's last row may be an evaluation's

    def close(self) -> None:
        """Waits for the upload, and ends the run."""
        self._run.finish()
        if self._mode == "offline":  # else the file may be empty yet, and this process resume
            self._wandb.teardown()


def _folder(workdir: str | os.PathLike, folder: str) -> str:
    """The folder of local files, in which wandb makes its own."""
    if folder := folder or os.environ.get("WANDB_DIR", ""):
        return os.path.expanduser(folder)
    return os.getcwd() if is_url(os.fspath(workdir)) else os.fspath(as_path(workdir))


def _is_axis(name: str) -> bool:
    return name.startswith("eval/") and name.endswith("/step")


def _latest(*steps: Mapping[str, int]) -> dict[str, int]:
    names = {name for each in steps for name in each}
    return {name: max(each.get(name, -1) for each in steps) for name in names}


def _steps_in_files(folder: str, run: str) -> dict[str, int]:
    """The last step of each group of metrics that earlier attempts wrote to files."""
    files = pathlib.Path(folder, "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb")
    return _latest(*map(steps_in_file, files))


def steps_in_file(file: pathlib.Path) -> dict[str, int]:
    """The last step of each group of metrics in a file `run-<id>.wandb`.

    It is a log as LevelDB has it, of protocol buffers. The last seconds before a kill are missing.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    steps: dict[str, int] = {}
    for data in _messages(file.read_bytes()):
        history = Record.FromString(data).history
        for item in history.item:
            name = "/".join(item.nested_key) or item.key
            if _is_axis(name):
                steps[name.removesuffix("/step")] = json.loads(item.value_json)
            elif not name.startswith(("eval/", "_")):
                steps["train"] = history.step.num
    return steps


def _messages(log: bytes) -> Iterator[bytes]:
    """The records of a log: blocks of 32 KiB, with parts that have a header of 7 bytes."""
    at, message = 7, b""  # after the file's own header
    while at + 7 <= len(log):
        room = _BLOCK - at % _BLOCK
        size, kind = struct.unpack_from("<HB", log, at + 4) if room >= 7 else (0, 0)
        if not kind:  # the rest of the block is padding
            at += room
            continue
        message += log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (_WHOLE, _LAST) and at <= len(log):  # or it was cut
            yield message
            message = b""
