"""Of benchmarks/: that each runs, at a tiny size, and is described."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def numbers(value):
    """All numbers of a JSON value."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers(part)]
    return [value] if isinstance(value, float | int) and not isinstance(value, bool) else []


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_runs_with_smoke_and_writes_its_figures(path, tmp_path):
    command = [sys.executable, path, "--smoke", "--json", tmp_path / "figures.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    figures = numbers(json.loads((tmp_path / "figures.json").read_text()))
    assert figures and all(map(math.isfinite, figures))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_is_described_in_the_documentation(path):
    assert f"`benchmarks/{path.name}" in (ROOT / "docs/benchmarks.md").read_text()
    assert f"python benchmarks/{path.name}" in path.read_text().split('"""')[1]
