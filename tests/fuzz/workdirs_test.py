import contextlib
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from fuzz.drawing import CHANGE, edited, edits, put
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.metadata import newest, sha256
from coca_jax.config import default_config, to_json, write_config
from coca_jax.errors import UserError
from coca_jax.evaluate.results import read_newest, write_results
from coca_jax.inference.loading import find_checkpoint
from coca_jax.observe.goodput import Goodput
from coca_jax.observe.report import write_report
from coca_jax.observe.writers import MetricWriter, read_metrics
from coca_jax.train.workdir import init_or_check_workdir, is_finished

pytestmark = pytest.mark.slow

STEPS = (5, 10)
CONFIG = default_config()
CONFIG.data.tokenizer.kind = "sentencepiece"
CONFIG.train.steps = STEPS[-1]
TREE = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(300)}}
TARGET = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), TREE)


@functools.cache
def workdir():
    """The folder of a run with two checkpoints, and the files in it."""
    folder = Path(tempfile.mkdtemp()) / "run"
    tokenizer = folder.with_name("tokenizer.model")
    tokenizer.write_bytes(b"pieces")
    write_config(folder, CONFIG)
    shutil.copy(tokenizer, folder)
    metadata = {"config": to_json(CONFIG), "files": {tokenizer.name: sha256(b"pieces")}}
    with CheckpointStore(folder / "checkpoints") as store, MetricWriter(folder) as metrics:
        for step in STEPS:
            tree = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, np.float32) + step, TREE)  # noqa: B023
            store.save(step, tree, metadata | {"step": step})
            metrics.write(step, {"train/loss": 1.5, "train/examples_seen": 8 * step})
            sample = {"image": b"JPEG", "caption": "a", "log_probability": -1.0}
            left = {"samples": [sample | {"references": ["b"], "exact": False}]}
            write_results(folder, step, {"e": {"score": 0.5, "other": None}}, {"e": left})
    Goodput(folder, 0.0).write(10)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return folder, sorted(name for name in names if not name.startswith("events."))


def changed(data, place, value):
    """JSON, or its first line, with another value."""
    head, newline, rest = data.partition(b"\n") if data.count(b"\n{") else (data, b"", b"")
    try:
        tree = json.loads(head)
    except ValueError:  # it is none
        return data
    put(tree, place, value)
    return json.dumps(tree).encode() + newline + rest


def damage(folder, kind, path, more):
    """Does to a file what was drawn."""
    data = path.read_bytes() if path.is_file() else b""
    if kind == "stray":
        (path.parent / ".DS_Store").write_bytes(b"\0")
        return
    if path.is_dir() or not path.parent.is_dir():
        return
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "swap":
        names = workdir()[1]
        path.write_bytes((workdir()[0] / names[more % len(names)]).read_bytes())
    elif kind == "value":
        path.write_bytes(changed(data, *more))
    elif kind == "edit":
        path.write_bytes(edited(data, more))


DAMAGE = st.tuples(
    st.integers(0, 1000),
    st.one_of(
        st.tuples(st.sampled_from(["stray", "folder", "remove"]), st.none()),
        st.tuples(st.just("swap"), st.integers(0, 1000)),
        st.tuples(st.just("value"), CHANGE),
        st.tuples(st.just("edit"), edits(least=1)),
    ),
)
CHANGES = st.lists(DAMAGE, min_size=1, max_size=3)


@contextlib.contextmanager
def damaged(folder, changes, only=""):
    """A copy of the workdir with damage to some of its files."""
    original, names = workdir()
    copy = epath.Path(folder / "run")
    shutil.copytree(original, copy)
    names = [name for name in names if name.startswith(only)]
    for number, (kind, more) in changes:
        damage(copy, kind, copy / names[number % len(names)], more)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield copy


def is_whole(copy, step):
    """Whether the files of a checkpoint are those that were written."""
    original, names = workdir()
    names = [name for name in names if name.startswith(f"checkpoints/{step}/")]
    files = [(copy / name, original / name) for name in names]
    return all(a.is_file() and a.read_bytes() == b.read_bytes() for a, b in files)


@fuzz(20, changes=CHANGES)
def test_a_damaged_checkpoint_is_never_restored(folder, changes):
    with damaged(folder, changes, "checkpoints/") as copy:
        with CheckpointStore(copy / "checkpoints") as store:
            step = store.latest_valid(report=lambda line: None)
            whole = [step for step in STEPS if is_whole(copy, step)]
            # What is written otherwise in a manifest may say the same.
            assert step in STEPS if step is not None else not whole
            assert step is None or step >= max(whole, default=0)
            if step is None:
                return
            assert store.metadata(step)["step"] == step
            restored = store.restore(step, TARGET)
        for leaf, wanted in zip(*map(jax.tree.leaves, (restored, TREE)), strict=True):
            np.testing.assert_array_equal(leaf, wanted.astype(np.float32) + step)


@fuzz(20, changes=CHANGES)
def test_a_damaged_workdir_is_repaired_or_refused(folder, changes):
    with damaged(folder, changes) as copy:
        with contextlib.suppress(UserError):
            found = find_checkpoint(copy)
            assert found.step in STEPS and to_json(found.config) == to_json(CONFIG)
        is_finished(copy, CONFIG)
        with contextlib.suppress(UserError):
            saved = newest(copy / "checkpoints")
            init_or_check_workdir(
                copy, CONFIG, str(workdir()[0].with_name("tokenizer.model")), saved
            )
            assert (copy / "tokenizer.model").read_bytes() == b"pieces"


@fuzz(20, changes=CHANGES)
def test_what_is_damaged_in_a_report_is_left_out_or_refused(folder, changes):
    with damaged(folder, changes) as copy:
        assert all(record["step"] >= 0 for record in read_metrics(copy))
        read_newest(copy)
        with contextlib.suppress(UserError):
            page = write_report(copy, to_json(CONFIG))
            assert "\0" not in Path(page).read_text()
