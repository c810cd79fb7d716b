"""Whose a folder is, when what it holds has been damaged or swapped."""

import copy

import pytest
from etils import epath

from coca_jax.checkpoints.metadata import Saved, sha256
from coca_jax.config import default_config, read_config, to_json
from coca_jax.errors import UserError
from coca_jax.evaluate.results import write_results
from coca_jax.train.workdir import init_or_check_workdir, is_finished


@pytest.fixture
def config():
    config = default_config()
    config.data.tokenizer.kind = "sentencepiece"
    return config


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "given.model").write_bytes(b"pieces")
    return str(tmp_path / "given.model")


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path / "run")


def saved_of(config, content=b"pieces"):
    files = {"tokenizer.model": sha256(content)}
    return Saved(5, {"config": to_json(config), "files": files})


def test_checksums_are_those_of_the_files_that_stand_there(workdir, config, tokenizer):
    assert init_or_check_workdir(workdir, config, tokenizer) == {
        "tokenizer.model": sha256(b"pieces")
    }
    assert (workdir / "tokenizer.model").read_bytes() == b"pieces"


def test_a_damaged_configuration_is_never_taken_over(workdir, config, tokenizer, capsys):
    init_or_check_workdir(workdir, config, tokenizer)
    (workdir / "config.json").write_text("[]")
    with pytest.raises(UserError, match="no checkpoint has a good copy"):
        init_or_check_workdir(workdir, config, tokenizer)
    assert (workdir / "config.json").read_text() == "[]"
    assert not is_finished(workdir, config)
    init_or_check_workdir(workdir, config, tokenizer, saved_of(config))
    assert "is restored from the checkpoint of step 5" in capsys.readouterr().err
    assert to_json(read_config(workdir)) == to_json(config)


def test_the_checkpoint_says_whose_the_folder_is(workdir, config, tokenizer):
    other = default_config()
    other.seed = 9
    (workdir / "config.json").parent.mkdir()
    (workdir / "config.json").write_text("")
    with pytest.raises(UserError, match=r"another configuration(.|\n)*config.seed: 9 there, 0 now"):
        init_or_check_workdir(workdir, config, tokenizer, saved_of(other))


@pytest.mark.parametrize("trace", ["goodput.json", "checkpoints/3"])
def test_a_run_that_saved_nothing_may_have_another_configuration(
    workdir, config, tokenizer, tmp_path, capsys, trace
):
    """After its first step took too much memory, say."""
    init_or_check_workdir(workdir, config, tokenizer)
    (workdir / "metrics.jsonl").touch()
    config.train.batch_size //= 2
    (tmp_path / "given.model").write_bytes(b"other")
    init_or_check_workdir(workdir, config, tokenizer)
    assert "saved nothing; its configuration is replaced:\n  config.train.batch_size" in (
        capsys.readouterr().out
    )
    assert to_json(read_config(workdir)) == to_json(config)
    assert (workdir / "tokenizer.model").read_bytes() == b"other"
    if trace == "goodput.json":  # whatever writers of metrics there are
        (workdir / trace).write_text("[]")
    else:  # whose files are damaged, say
        (workdir / trace).mkdir(parents=True)
    config.train.batch_size //= 2
    with pytest.raises(UserError, match="another configuration"):
        init_or_check_workdir(workdir, config, tokenizer)


def test_a_model_is_no_run_to_go_on_with(workdir, config, tokenizer):
    """Nothing of it would be used: step 0 is that of a new run."""
    converted = saved_of(config)._replace(step=0)
    with pytest.raises(UserError, match=rf"has no optimizer: .* --config\.init\.path={workdir}"):
        init_or_check_workdir(workdir, config, tokenizer, converted)
    assert not workdir.exists()


def test_data_may_move_where_their_fingerprint_is_known(workdir, config, tokenizer):
    config.data.train.path = "/old/*.tar"
    config.data.sources = {"a": {"path": "/old/a"}}
    saved = saved_of(config)
    config = copy.deepcopy(config)
    config.data.train.path = "/new/*.tar"
    config.data.sources.a.path = "/new/a"
    with pytest.raises(UserError, match=r"another (.|\n)*data.sources.a.path: '/old/a'"):
        init_or_check_workdir(workdir, config, tokenizer, saved)
    saved.metadata["data"] = {"data.train": [["a.tar", 1, 1, "0"]]}
    init_or_check_workdir(workdir, config, tokenizer, saved)
    assert read_config(workdir).data.train.path == "/new/*.tar"


def test_a_run_may_have_more_steps_but_no_fewer_than_are_done(workdir, config, tokenizer):
    config.train.steps, config.optimizer.warmup_steps = 1000, 1
    saved = saved_of(config)
    init_or_check_workdir(workdir, config, tokenizer, saved)
    config = copy.deepcopy(config)
    config.train.steps = 4
    with pytest.raises(UserError, match=r"config.train.steps=4: the run has done 5 of 1000 steps"):
        init_or_check_workdir(workdir, config, tokenizer, saved)
    assert read_config(workdir).train.steps == 1000
    for steps in (5, 2000):
        config.train.steps = steps
        with pytest.raises(UserError, match=rf"config.train.steps: \d+ there, {steps} now"):
            init_or_check_workdir(workdir, config, tokenizer, saved, fixed_length=True)
        assert not is_finished(workdir, config)
        init_or_check_workdir(workdir, config, tokenizer, saved)
        assert read_config(workdir).train.steps == steps
    config.train.steps = 4  # nothing is done yet
    init_or_check_workdir(workdir, config, tokenizer, None)


def test_a_tokenizer_that_was_swapped_is_named(workdir, config, tokenizer, tmp_path):
    init_or_check_workdir(workdir, config, tokenizer)
    (workdir / "tokenizer.model").write_bytes(b"swapped")
    with pytest.raises(UserError, match=r"run/tokenizer.model is not the file that step 5"):
        init_or_check_workdir(workdir, config, tokenizer, saved_of(config))
    # Both are swapped.
    (tmp_path / "given.model").write_bytes(b"swapped")
    with pytest.raises(UserError, match=r"given.model is not the tokenizer that step 5"):
        init_or_check_workdir(workdir, config, tokenizer, saved_of(config))
    # That of the folder is gone.
    (workdir / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"given.model is not the tokenizer that step 5"):
        init_or_check_workdir(workdir, config, tokenizer, saved_of(config))
    assert not (workdir / "tokenizer.model").exists()


def test_a_run_is_finished_when_its_results_are_of_its_options(workdir, config, tokenizer):
    config.eval = {"loss": {"kind": "loss", "name": "shapes", "split": "test", "limit": 8}}
    steps = config.train.steps = 5
    config.optimizer.warmup_steps = 1
    init_or_check_workdir(workdir, config, tokenizer, saved_of(config))
    (workdir / f"checkpoints/{steps}").mkdir(parents=True)
    (workdir / f"checkpoints/{steps}/manifest.json").write_text("{}")
    assert not is_finished(workdir, config)
    write_results(workdir, steps, {"loss": {"total": 1.0}}, {}, to_json(config.eval))
    assert is_finished(workdir, config)
    config.eval.loss.limit = 9
    assert not is_finished(workdir, config)
