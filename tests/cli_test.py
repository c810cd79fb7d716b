import json

import pytest

from coca_jax import cli
from coca_jax.distributed import processes
from coca_jax.errors import UserError

BASE, SHAPES = "configs/coca_base.py", "configs/shapes.py"


def test_params_prints_and_writes_the_towers(tmp_path, capsys):
    file = tmp_path / "params.json"
    assert cli.main(["params", "--config", BASE, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "image_encoder" in out and "85,999,872" in out
    result = json.loads(file.read_text())
    parts = ("image_encoder", "decoder", "caption_pooler", "contrastive_pooler", "logit_scale")
    assert result["total"] == sum(result[part] for part in parts)
    assert result["flops_per_example"] == 3 * sum(result["forward_flops"].values())


def test_params_of_a_model_with_one_loss(capsys):
    argument = "--config.loss.captioning.weight=0"
    assert cli.main(["params", "--config", BASE, argument]) == 0
    assert "caption_pooler" not in capsys.readouterr().out


def test_params_of_a_run_with_lora_says_how_many_are_trained(tmp_path, capsys):
    file, rank = tmp_path / "params.json", 4
    words = [f"--config.lora.rank={rank}", "--config.init.path=runs/base", "--json", str(file)]
    layers = "--config.lora.layers=('image_encoder/.*/up/kernel',)"
    assert cli.main(["params", "--config", BASE, *words, layers]) == 0
    assert json.loads(file.read_text())["trained"] == 12 * rank * (768 + 3072)
    assert "184,320   0.0%, by LoRA of rank 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["params", "--config", "absent.py"], "configuration file 'absent.py' does not exist"),
        (["params", "--config", BASE, "--config.seeds=1"], "config.seeds does not exist; did you"),
        (["data", "prepare", "imagenet"], "imagenet"),
        (["report", "--workdir", "absent"], "absent"),
        (["caption", "--model", "absent", "a.png"], "absent"),
        (["evaluate", "--config", BASE, "--workdir", "absent"], "names no evaluation"),
        (["evaluate", "--config", SHAPES, "--workdir", "absent"], "absent does not exist\n"),
        (["evaluate", "--config", SHAPES, "--workdir", "docs"], "docs holds no config.json; is it"),
        (["caption", "--model", "org/m", "a.png"], "org/m does not exist; for a model on the Hug"),
        (["caption", "--model", "docs/m", "a.png"], "docs/m does not exist\n"),
        (
            ["params", "--config", BASE, "--config.model.image.num_heads=5"],
            "multiple of config.model",
        ),
    ],
)
def test_errors_exit_with_2_and_one_message(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_surplus_words_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "--workdir", "x", "--fast"])
    assert stop.value.code == 2
    assert "--fast" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("2", "such as 2/8"),
        ("-1/8", "such as 2/8"),
        ("9/8", "at most the second"),
        ("0/0", "at most"),
    ],
)
def test_a_shard_of_a_comparison_is_two_numbers(words, message, tmp_path, capsys):
    command = ["compare", "--config", "configs/compare.py", "--workdir", str(tmp_path)]
    with pytest.raises(SystemExit):
        cli.main([*command, f"--shard={words}"])
    assert message in capsys.readouterr().err


@pytest.fixture
def left(monkeypatch):
    """The exit codes with which a command leaves the group of processes that it seems to be in."""
    codes = []
    monkeypatch.setattr(processes, "is_distributed", lambda: True)
    monkeypatch.setattr(processes, "shutdown", codes.append)
    return codes


COMPARE = ["compare", "--config", "configs/compare.py:smoke", "--workdir"]


def test_the_shard_that_trains_nothing_makes_the_tables_and_leaves(left, tmp_path, capsys):
    assert cli.main([*COMPARE, str(tmp_path), "--shard", "0/8"]) == 0
    assert "report.html" in capsys.readouterr().out and left == [0]
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert not any(row["seeds"] for row in rows.values())


def test_a_comparison_that_fails_leaves_its_group(left, tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("refused")

    monkeypatch.setattr("coca_jax.sweep.compare.compare", refuse)
    assert cli.main([*COMPARE, str(tmp_path)]) == 2
    assert left == [2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", SHAPES], f"--config is given twice: '{SHAPES}' and '{SHAPES}'"),
        (["--config.train.steps", "5"], "--config.train.steps: write --config.KEY=VALUE"),
    ],
)
def test_a_configuration_is_given_once_and_overrides_have_values(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["params", "--config", SHAPES, *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
