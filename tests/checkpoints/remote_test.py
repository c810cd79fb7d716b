"""Checkpoints in object stores: real servers, which fail now and then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stores

from coca_jax import cli
from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.best import Best
from coca_jax.config import default_config, to_json, write_config
from coca_jax.errors import UserError
from coca_jax.io import files, folders

ITEMS = {"params": {"a": jnp.arange(10.0), "b": {"c": jnp.ones((3, 4))}}}


@pytest.fixture(scope="module")
def gcs():
    with stores.gcs_store() as store:
        yield store


@pytest.fixture(scope="module")
def s3():
    with stores.s3_store() as address:
        yield address


@pytest.fixture(params=["gs", "s3"])
def folder(request):
    """A new folder in a store of each kind."""
    request.getfixturevalue("gcs" if request.param == "gs" else "s3")
    name = request.node.name.replace("[", "-").replace("]", "")
    return f"{request.param}://{stores.BUCKET}/{name}/a folder/checkpoints"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "coca_jax/checkpoints"


def save(folder, *steps, keep=3):
    with CheckpointStore(folder, keep=keep) as store:
        for step in steps:
            store.save(step, ITEMS, {"examples_seen": step})


def test_saved_and_restored(folder, cache):
    save(folder, 1, 2, 3, keep=2)
    assert [path.name for path in folders.children(folder)] == ["2", "3"]
    with CheckpointStore(folder) as store:
        assert store.latest_valid() == 3 and store.has_steps()
        assert store.metadata(3) == {"examples_seen": 3}
        restored = store.restore(3, ITEMS)
    jax.tree.map(np.testing.assert_array_equal, restored, ITEMS)
    assert folders.children(cache) == []  # no local copy is left


@pytest.mark.parametrize("folder", ["gs"], indirect=True)
def test_the_best_stays_next_to_the_newest(folder, cache):
    workdir = folder.removesuffix("/checkpoints")
    best = Best(workdir, "held_out/loss", "min")
    with CheckpointStore(folder, keep=1, best=best) as store:
        for step, loss in ((1, 0.2), (2, 0.1), (3, 0.3)):
            store.save(step, ITEMS, {})
            store.wait()
            content = f'{{"held_out": {{"loss": {loss}}}}}'
            files.write_whole(f"{workdir}/eval/{step}.json", content.encode())
        assert store.best_step(best) == 2
    assert [path.name for path in folders.children(folder)] == ["2", "3"]


@pytest.mark.parametrize("folder", ["s3"], indirect=True)
def test_listed_and_averaged(folder, cache, capsys):
    workdir, config = folder.removesuffix("/checkpoints"), default_config()
    config.data.tokenizer.kind = "byte"
    with CheckpointStore(folder) as store:
        for step in (1, 2):
            items = jax.tree.map(lambda x, factor=float(step): x * factor, ITEMS)
            store.save(step, items, {"config": to_json(config)})
    write_config(workdir, config)
    files.write_whole(f"{workdir}/eval/2.json", b'{"held_out": {"loss": 1.5}}')
    assert cli.main(["checkpoints", workdir]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[3:] == ["valid", "-"]
    assert lines[2].split()[3:] == ["valid", "newest", "1.5000"]
    out = f"{workdir} averaged"
    assert cli.main(["average", "--ema=0.25", workdir, out]) == 0
    with CheckpointStore(f"{out}/checkpoints") as store:
        restored = store.restore(0, ITEMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 1.75 * b), restored, ITEMS)
    files.write_whole(f"{folder}/1/layout.json", b"{}")
    assert cli.main(["checkpoints", workdir]) == 5
    assert "step 1: layout.json: truncated" in capsys.readouterr().out
    assert cli.main(["average", workdir, f"{workdir} again"]) == 2
    assert folders.children(f"{workdir} again") == []


def test_the_one_before_a_damaged_step_is_used(folder, cache):
    save(folder, 1, 2)
    name = max(folders.tree(f"{folder}/2"), key=lambda name: "/d/" in name)
    content = bytearray(files.read_bytes(f"{folder}/2/{name}"))
    content[len(content) // 2] ^= 1
    files.write_whole(f"{folder}/2/{name}", bytes(content))
    said = []
    with CheckpointStore(folder) as store:
        assert store.latest_valid(said.append) == 1
    assert "checksum differs" in said[0]


def test_checking_reads_no_contents(gcs, cache):
    folder = f"gs://{stores.BUCKET}/listed"
    save(folder, 1)
    gcs.requests.clear()
    with CheckpointStore(folder) as store:
        assert store.latest_valid() == 1
    read = [path for method, path in gcs.requests if "alt=media" in path or "/download/" in path]
    assert read and all(".json" in path for path in read)  # but for the manifest and such


def test_copies_of_a_store_are_checked_by_its_checksums(gcs, cache, tmp_path):
    folder = f"gs://{stores.BUCKET}/copied"
    save(folder, 1)
    folders.copy_tree(folder, tmp_path / "local")
    with CheckpointStore(tmp_path / "local") as store:
        assert store.latest_valid() == 1
        jax.tree.map(np.testing.assert_array_equal, store.restore(1, ITEMS), ITEMS)
    name = max(folders.tree(tmp_path / "local/1"), key=lambda name: "/d/" in name)
    path = tmp_path / "local/1" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with CheckpointStore(tmp_path / "local") as store:
        assert store.latest_valid(lambda line: None) is None
    # And those that were saved locally by theirs.
    save(tmp_path / "mine", 1)
    folders.copy_tree(tmp_path / "mine", f"gs://{stores.BUCKET}/brought")
    with CheckpointStore(f"gs://{stores.BUCKET}/brought") as store:
        assert store.latest_valid() == 1


@pytest.mark.parametrize("character", list("#?[]*\\"))
def test_urls_that_cannot_hold_checkpoints(character):
    with pytest.raises(UserError, match="cannot be in the URL of checkpoints"):
        CheckpointStore(f"gs://bucket/a{character}b")


@pytest.fixture
def fault(gcs):
    """Sets what the server answers a request with, by its number."""
    yield lambda function: setattr(gcs, "fault", function)
    gcs.fault = lambda number: None


@pytest.mark.slow  # for the pauses of clients before they try again
def test_one_request_in_ten_fails(gcs, fault, cache):
    folder = f"gs://{stores.BUCKET}/busy"
    fault(lambda number: 503 if number % 10 == 0 else None)
    save(folder, 1)
    with CheckpointStore(folder) as store:
        assert store.latest_valid() == 1
        jax.tree.map(np.testing.assert_array_equal, store.restore(1, ITEMS), ITEMS)


def test_a_store_that_refuses_to_be_read_has_no_damaged_steps(gcs, fault, cache):
    folder = f"gs://{stores.BUCKET}/refused"
    save(folder, 1, 2)
    said = []
    with CheckpointStore(folder) as store:
        fault(lambda number: 403 if "2%2Fmanifest.json" in gcs.requests[-1][1] else None)
        with pytest.raises(UserError, match="cannot be read"):
            store.latest_valid(said.append)
    assert not said


def test_credentials_that_are_lost_end_with_the_last_good_step(gcs, fault, cache):
    folder = f"gs://{stores.BUCKET}/forgetful"
    with CheckpointStore(folder) as store:
        store.save(1, ITEMS, {})
        store.wait()
        begin = len(gcs.requests)
        fault(lambda number: 403 if number > begin + 15 else None)
        with pytest.raises(UserError, match=r"checkpoint .*/2 could not be saved"):
            store.save(2, ITEMS, {})
            store.wait()
        fault(lambda number: None)
    with CheckpointStore(folder) as store:
        assert store.latest_valid(lambda line: None) == 1
