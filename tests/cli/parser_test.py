import re
import types

import pytest

from coca_jax import cli
from coca_jax.cli import model_parser, parser
from coca_jax.cli.options import BEAM_OPTIONS, SAMPLING_OPTIONS
from coca_jax.cli.parser import make_parser
from coca_jax.generate import Beams, Sampling


def test_help_needs_no_docstrings(monkeypatch, capsys):
    names = {**vars(parser), **vars(model_parser)}
    for commands in (m for m in names.values() if isinstance(m, types.ModuleType)):
        for function in vars(commands).values():
            if isinstance(function, types.FunctionType):
                monkeypatch.setattr(function, "__doc__", None)  # as with `python -OO`
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    assert "Train a model, or resume the run in" in capsys.readouterr().out


def test_messages_begin_with_the_whole_command(capsys):
    assert cli.main(["data", "inspect", "--config", "nowhere.py"]) == 2
    assert capsys.readouterr().err.startswith("coca data inspect: configuration file 'nowhere.py'")


@pytest.mark.parametrize(
    "command, defaults",
    [
        ("embed", ["parquet", "10000", "64", "0", "float32"]),
        ("data deduplicate", ["4", "0.95"]),
        ("serve", ["127.0.0.1", "8000", "5.0", "32", "256", "33554432", "40000000"]),
        ("train", []),
    ],
)
def test_help_states_defaults_once(command, defaults, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args([*command.split(), "--help"])
    words = " ".join(capsys.readouterr().out.split())
    stated = re.findall(r"\(default: ([^)]*)\)", words)
    assert sorted(stated) == sorted(defaults)
    assert "None" not in words and "default)" not in words


def test_the_stated_defaults_of_captions_are_those_of_the_methods():
    stated = {
        name: re.search(r"default: ([\d.]+)", meaning)[1]
        for name, (_, meaning) in (BEAM_OPTIONS | SAMPLING_OPTIONS).items()
        if name != "seed"
    }
    defaults = vars(Beams()) | vars(Sampling())
    assert stated == {name: str(defaults[name]) for name in stated}


@pytest.mark.parametrize("words", [["report", "--workdir"], ["checkpoints"]])
def test_a_file_is_no_workdir(words, tmp_path, capsys):
    (tmp_path / "a.png").touch()
    with pytest.raises(SystemExit):
        make_parser().parse_args([*words, str(tmp_path / "a.png")])
    assert "a.png is a file, not a folder" in capsys.readouterr().err
