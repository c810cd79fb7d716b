"""`docs/build.sh` refuses pages and modules with mistakes."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_mistakes_fail_and_are_named(tmp_path):
    site = tmp_path / "checkout"
    for name in ("docs", "coca_jax", "configs", "tests/train"):
        left_out = shutil.ignore_patterns("build", "runs", "__pycache__")
        shutil.copytree(ROOT / name, site / name, ignore=left_out)
    for name in ("README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, site)
    with (site / "docs/scale.md").open("a") as page:
        page.write("\n[a](results.md#no-heading) [b](no_page.md) [c](../configs/no_file.py)\n")
    (site / "docs/stray.md").write_text("# No page leads here\n")
    losses = site / "coca_jax/losses/base.py"
    losses.write_text(losses.read_text() + "\n\ndef bare():\n    pass\n")
    package = site / "coca_jax/losses/__init__.py"
    package.write_text(package.read_text().replace("base import", "base import bare,"))
    package.write_text(package.read_text().replace("__all__ = [", '__all__ = ["bare",'))
    (site / "coca_jax/train/fresh.py").write_text('"""See `coca_jax.train.nowhere`."""\n')
    pages = site / "docs/api/train.md"
    pages.write_text(
        pages.read_text().replace("coca_jax.train.step\n```", "coca_jax.train.fresh\n```")
    )

    environment = os.environ | {"VENV": sys.prefix, "NOTEBOOKS": "off"}
    done = subprocess.run(
        ["bash", "docs/build.sh"], cwd=site, env=environment, capture_output=True, text=True
    )

    assert done.returncode
    for mistake in (
        "local id not found in doc 'results': 'no-heading'",
        "target not found: 'no_page.md'",
        "target not found: '../configs/no_file.py'",
        "stray.md: WARNING: document isn't included in any toctree",
        "coca_jax.losses.bare has no docstring",
        "target not found: coca_jax.train.nowhere",
        "coca_jax.train.step is neither on a page",
    ):
        assert mistake in done.stderr
