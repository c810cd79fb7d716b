import os
import sys

import jax
import pytest

from coca_jax.cli import switches


@pytest.mark.parametrize(
    ("name", "given", "instead"),
    [
        ("JAX_ENABLE_X64", "True", "0"),
        ("JAX_DISABLE_JIT", "1", "0"),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict", "standard"),
        ("JAX_TRANSFER_GUARD", "disallow", "allow"),
        ("JAX_TRANSFER_GUARD_DEVICE_TO_HOST", "disallow_explicit", "allow"),
    ],
)
def test_a_switch_is_not_followed_and_that_is_said(name, given, instead, monkeypatch):
    monkeypatch.setenv(name, given)
    monkeypatch.delitem(sys.modules, "jax")  # as a command starts
    (line,) = switches.overrule()
    assert line.startswith(f"{name}={given} is ignored: ")
    assert os.environ[name] == instead
    assert switches.overrule() == []


@pytest.mark.parametrize(
    ("name", "given"),
    [("JAX_ENABLE_X64", "0"), ("JAX_ENABLE_X64", "maybe"), ("JAX_TRANSFER_GUARD", "log")],
)
def test_other_values_are_jaxs_affair(name, given, monkeypatch):
    monkeypatch.setenv(name, given)
    assert switches.overrule() == [] and os.environ[name] == given


def test_jax_that_is_imported_is_told(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with jax.enable_x64(False):
        jax.config.update("jax_enable_x64", True)
        switches.overrule()
    assert not jax.config.jax_enable_x64
