import types

import pytest

from coca_jax import cli
from coca_jax.cli import model_parser, parser
from coca_jax.cli.parser import make_parser


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
