import types

import pytest

from coca_jax.cli import commands
from coca_jax.cli.parser import make_parser


def test_help_needs_no_docstrings(monkeypatch, capsys):
    for function in vars(commands).values():
        if isinstance(function, types.FunctionType):
            monkeypatch.setattr(function, "__doc__", None)  # as with `python -OO`
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    assert "Train a model, or resume the run in" in capsys.readouterr().out
