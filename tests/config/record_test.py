"""`config.json` of a workdir: what was cut, swapped or edited is named, and restored."""

import json
import subprocess

import pytest

from coca_jax.config import (
    default_config,
    model_config,
    read_config,
    record,
    to_json,
    write_config,
)
from coca_jax.config.checks import errors
from coca_jax.config.record import parse_record, stored_config
from coca_jax.errors import UserError
from coca_jax.io.stored import Damaged
from coca_jax.losses import losses

COPY = {"config": to_json(default_config())}


def edited(**keys):
    record = json.loads(json.dumps(COPY))
    for key, value in keys.items():
        *parents, leaf = key.split("__")
        node = record["config"]
        for name in parents:
            node = node[name]
        node[leaf] = value
    return json.dumps(record).encode()


DAMAGES = {
    "empty": (b"", "is empty"),
    "truncated": (b'{"config": {"seed"', "is not JSON"),
    "bytes": (b"\xff\xfe\x00", "is not UTF-8"),
    "list": (b"[]", r"holds \[\] where an object should be"),
    "null": (b"null", "holds None"),
    "no config": (b'{"versions": {}}', "holds None where the configuration"),
    "config is a list": (b'{"config": []}', r"holds \[\] where the configuration"),
    "deep": (b'{"config": ' * 9999, "nested too deeply|no JSON"),
    "section is a number": (edited(model=5), "is not a configuration: config.model"),
    "number is a list": (edited(model__image__width=[1]), "config.model.image.width"),
    "unknown key": (edited(train__stepz=1), "another version of coca_jax.*config.train.stepz"),
    "not a number": (edited(optimizer__learning_rate=float("nan")), "learning_rate"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_restored_from_the_copy(tmp_path, capsys, name):
    data, said = DAMAGES[name]
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=f"config.json .*({said})"):
        read_config(tmp_path)
    assert to_json(stored_config(tmp_path, 7, COPY)) == COPY["config"]
    assert "it is restored from the checkpoint of step 7" in capsys.readouterr().err
    assert to_json(read_config(tmp_path)) == COPY["config"]


@pytest.mark.parametrize("name", DAMAGES)
def test_without_a_copy_it_is_refused_and_left(tmp_path, name):
    data, _ = DAMAGES[name]
    (tmp_path / "config.json").write_bytes(data)
    for metadata in ({}, {"config": 5}):
        with pytest.raises(UserError, match=r"no checkpoint has a good copy|or another folder"):
            stored_config(tmp_path, 7, metadata)
    assert (tmp_path / "config.json").read_bytes() == data


def test_what_was_edited_to_another_model_is_restored_too(tmp_path, capsys):
    (tmp_path / "config.json").write_bytes(edited(model__image__width=96, train__log_every=77))
    assert to_json(stored_config(tmp_path, 7, COPY)) == COPY["config"]
    said = capsys.readouterr().err
    assert (
        "differs from how step 7 was trained" in said
        and "config.model.image.width: 96 there" in said
    )


def test_keys_that_may_change_are_those_of_the_file(tmp_path, capsys):
    (tmp_path / "config.json").write_bytes(edited(train__log_every=77))
    assert stored_config(tmp_path, 7, COPY).train.log_every == 77
    assert capsys.readouterr().err == ""


def test_a_file_that_was_removed_comes_back(tmp_path):
    assert to_json(stored_config(tmp_path, 7, COPY)) == COPY["config"]
    assert json.loads((tmp_path / "config.json").read_text())["restored_from"] == "checkpoints/7"


def test_a_folder_that_is_no_workdir_is_said_to_be_none(tmp_path):
    with pytest.raises(UserError, match=r"holds no config.json; is it the workdir"):
        stored_config(tmp_path, None, {})
    with pytest.raises(UserError, match=r"nowhere does not exist$"):
        stored_config(tmp_path / "nowhere", None, {})


def test_what_is_written_is_read_again(tmp_path):
    write_config(tmp_path, default_config())
    assert to_json(read_config(tmp_path)) == COPY["config"]
    with pytest.raises(Damaged):
        parse_record({})


def test_a_record_of_another_version_is_refused_once(tmp_path):
    (tmp_path / "config.json").write_bytes(record_of_before := edited(train__accumulate=4))
    with pytest.raises(UserError) as caught:
        stored_config(tmp_path, 7, json.loads(record_of_before))
    assert str(caught.value).endswith(
        "with keys that this one lacks (config.train.accumulate); use that version, or another "
        "folder"
    )


def test_a_record_may_name_what_is_registered_elsewhere(tmp_path):
    mine = {"loss__mine": {"weight": 1.0}, "optimizer__name": "mine", "optimizer__schedule": "own"}
    (tmp_path / "config.json").write_bytes(edited(**mine, eval={"a": {"kind": "mine"}}))
    config = read_config(tmp_path)
    assert config.loss.mine.weight == 1.0 and config.optimizer.name == "mine"
    assert model_config(config) == model_config(default_config())
    assert len(errors(config)) == 3
    config.update_from_flattened_dict({f"loss.{name}.weight": 0.0 for name in losses})
    config.head.classes = ("a", "b")
    write_config(tmp_path, config)
    assert read_config(tmp_path).head.classes == ["a", "b"]
    (tmp_path / "config.json").write_bytes(edited(optimizer__name=5))
    with pytest.raises(UserError, match=r"config\.optimizer\.name=5 should be one of"):
        read_config(tmp_path)


def test_a_record_may_have_settings_that_are_refused_in_new_runs(tmp_path):
    old = {
        "lora__alpha": 4.0,
        "data__train__neighborhood_size": 4,
        "loss__contrastive__initial_temperature": 0.005,
    }
    (tmp_path / "config.json").write_bytes(edited(**old))
    config = read_config(tmp_path)
    assert config.lora.alpha == 4.0 and len(errors(config)) == 3


def test_a_loss_that_is_registered_since_was_not_trained(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_bytes(edited())
    monkeypatch.setattr(losses, "_added", {"mine": losses["contrastive"]})
    assert default_config().loss.mine.weight == 1.0
    assert read_config(tmp_path).loss.mine.weight == 0.0


HASH = b"0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("output", "commit"),
    [
        (HASH + b"\n", HASH.decode()),
        (HASH + b"-dirty\n", f"{HASH.decode()}-dirty"),
        (b"\xff\xfe" + HASH, None),
        (b"warning: something\n", None),
        (b"", None),
    ],
)
def test_what_git_prints(output, commit, tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_bytes(b"#!/bin/sh\nprintf '" + output + b"'\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / ".git").mkdir()
    assert record._commit(tmp_path) == commit


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("git"), PermissionError("git"), subprocess.TimeoutExpired("git", 10)],
)
def test_git_that_cannot_be_run(error, tmp_path, monkeypatch):
    def run(*arguments, **options):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / ".git").mkdir()
    assert record._commit(tmp_path) is None


def test_a_package_installed_within_another_checkout_has_no_commit(tmp_path):
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    (tmp_path / "site-packages").mkdir()
    assert len(record._commit(tmp_path)) == 40
    assert record._commit(tmp_path / "site-packages") is None
