"""`coca checkpoints`: which steps there are, whole or not, and what they are worth."""

import json
import shutil

import jax.numpy as jnp
import pytest

from coca_jax import cli
from coca_jax.checkpoints import CheckpointStore, listing, manifest
from coca_jax.checkpoints.listing import list_steps
from coca_jax.config import default_config, to_json, write_config
from coca_jax.errors import ExitCode, UserError
from coca_jax.inference import find_checkpoint

BEST = {"keep_best": "held_out/loss", "best_mode": "min"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with steps 5, 10 and 20, of which the second is the best."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = default_config()
    config.checkpoint.update(BEST)
    with CheckpointStore(workdir / "checkpoints") as store:
        for step, loss in ((5, 3.0), (10, 1.5), (20, 2.0)):
            store.save(step, {"params": {"x": jnp.ones(999)}}, {"config": to_json(config)})
            results = {"shown": {"top1": loss / 10, "top5": None}, "held_out": {"loss": loss}}
            (workdir / "eval").mkdir(exist_ok=True)
            (workdir / f"eval/{step}.json").write_text(json.dumps(results))
    write_config(workdir, config)
    (workdir / "eval/20.json").unlink()
    return workdir


@pytest.fixture
def workdir(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def largest(folder):
    """The largest file of arrays: the configuration in a small checkpoint may be larger."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json")
    return max(files, key=lambda p: p.stat().st_size)


def rows_of(text):
    return [line.split() for line in text.splitlines()]


def test_the_table_and_the_json(workdir, tmp_path, capsys):
    assert cli.main(["checkpoints", str(workdir), "--json", str(tmp_path / "c.json")]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows[0] == ["step", "size", "state", "held_out/loss", "shown/top1"]
    assert [row[0] for row in rows[1:]] == ["5", "10", "20"]
    assert rows[1][3:] == ["valid", "3.0000", "0.3000"]
    assert rows[2][3:] == ["valid", "best", "1.5000", "0.1500"]
    assert rows[3][3:] == ["valid", "newest", "-", "-"]
    content = json.loads((tmp_path / "c.json").read_text())
    assert (content["newest"], content["best"], content["keep_best"]) == (20, 10, "held_out/loss")
    step = content["steps"][1]
    files = [path for path in (workdir / "checkpoints/10").rglob("*") if path.is_file()]
    assert step["bytes"] == sum(path.stat().st_size for path in files)
    assert step["metrics"] == {"shown": {"top1": 0.15, "top5": None}, "held_out": {"loss": 1.5}}
    assert step["state"] == "valid" and step["problems"] == []


def test_the_report_names_the_best(workdir):
    assert cli.main(["report", "--workdir", str(workdir)]) == 0
    assert "step 10, held_out/loss 1.5 (min)" in (workdir / "report.html").read_text()


def test_every_command_names_the_same_best(workdir, capsys):
    shutil.copytree(workdir / "checkpoints/20", workdir / "checkpoints/30")
    (workdir / "checkpoints/30/manifest.json").unlink()
    (workdir / "eval/30.json").write_text('{"held_out": {"loss": 0.5}}')
    (workdir / "config.json").write_text("{")  # the checkpoints have a copy
    assert cli.main(["checkpoints", str(workdir)]) == 0
    assert rows_of(capsys.readouterr().out)[2][3:5] == ["valid", "best"]
    assert find_checkpoint(workdir / "checkpoints/best").step == 10
    assert cli.main(["report", "--workdir", str(workdir)]) == 0
    assert "step 10, held_out/loss 1.5 (min)" in (workdir / "report.html").read_text()


def test_steps_of_another_version_are_listed(workdir, capsys):
    config = json.loads((workdir / "config.json").read_text())
    config["config"]["of_another_version"] = 1
    (workdir / "config.json").write_text(json.dumps(config))
    for step in (5, 10, 20):
        folder = workdir / f"checkpoints/{step}"
        (folder / "metadata.json").write_text(json.dumps({"config": config["config"]}))
        manifest.write(folder)
    assert cli.main(["checkpoints", str(workdir)]) == 0
    said = capsys.readouterr()
    assert "another version of coca_jax" in said.err
    assert [row[3] for row in rows_of(said.out)[1:]] == ["valid"] * 3


def test_what_is_damaged_is_named_and_neither_newest_nor_best(workdir, capsys):
    flipped = largest(workdir / "checkpoints/20")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    (workdir / "checkpoints/10/layout.json").unlink()
    shutil.copytree(workdir / "checkpoints/5", workdir / "checkpoints/30")
    (workdir / "checkpoints/30/manifest.json").unlink()
    assert cli.main(["checkpoints", str(workdir)]) == ExitCode.INCOMPLETE
    said = capsys.readouterr()
    rows = rows_of(said.out)
    assert rows[1][3:] == ["valid", "newest,", "best", "3.0000", "0.3000"]
    assert [row[3] for row in rows[2:5]] == ["damaged", "damaged", "unfinished"]
    lines = said.out.splitlines()[5:]
    assert lines[0] == "step 10: layout.json: missing"
    name = flipped.relative_to(workdir / "checkpoints/20")
    assert lines[1] == f"step 20: {name}: checksum differs"
    assert lines[2].startswith("step 30: no manifest.json") and len(lines) == 3
    assert "2 of 4 checkpoints are damaged" in said.err
    # Sizes alone do not tell that a bit is another.
    states = [step.state for step in list_steps(workdir / "checkpoints", contents=False)]
    assert states == ["valid", "damaged", "valid", "unfinished"]


def test_a_step_that_is_removed_meanwhile_is_not_damaged(workdir, monkeypatch):
    tree, removed = listing.folders.tree, workdir / "checkpoints/5"

    def tree_of_before(folder):
        files = tree(folder)
        shutil.rmtree(removed, ignore_errors=True)
        return files

    monkeypatch.setattr(listing.folders, "tree", tree_of_before)
    states = [step.state for step in list_steps(workdir / "checkpoints")]
    assert states == ["unfinished", "valid", "valid"]


def test_a_removal_begins_with_the_manifest(workdir, monkeypatch):
    def stopped(folder):
        assert "unfinished" in [step.state for step in list_steps(workdir / "checkpoints")]
        raise OSError("stopped")

    with CheckpointStore(workdir / "checkpoints", keep=3) as store:
        monkeypatch.setattr(listing.folders, "remove_tree", stopped)
        store.save(30, {"params": {"x": jnp.ones(9)}}, {})
        with pytest.raises(UserError, match="stopped"):
            store.wait()


def test_an_interrupted_save_alone_is_no_failure(workdir, capsys):
    (workdir / "checkpoints/20/manifest.json").unlink()
    assert cli.main(["checkpoints", str(workdir), "--sizes-only"]) == 0
    assert "unfinished" in capsys.readouterr().out


def test_a_folder_without_checkpoints(tmp_path, capsys):
    assert cli.main(["checkpoints", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
