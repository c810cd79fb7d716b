import pathlib
import subprocess
import sys

from coca_jax import cli
from coca_jax.config import packaged

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def test_the_list_has_every_configuration_and_its_first_line(capsys):
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(file.stem for file in CONFIGS.glob("*.py"))
    (line,) = (line for line in lines if line.startswith("shapes "))
    assert line.split(maxsplit=1)[1] == (
        "Trains a small CoCa on built-in synthetic data: scenes of colored shapes, with captions."
    )


def test_a_file_can_be_printed_as_a_start_for_ones_own(capsys, tmp_path):
    assert cli.main(["configs", "shapes"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "shapes.py").read_text()
    assert cli.main(["configs", "shaps"]) == 2
    assert "there is no packaged configuration 'shaps'; did you mean shapes?" in (
        capsys.readouterr().err
    )


def test_an_installed_package_has_its_own_copy(tmp_path, monkeypatch):
    installed = tmp_path / "coca_jax"
    (installed / "configs").mkdir(parents=True)
    (installed / "configs" / "theirs.py").write_text("")
    monkeypatch.setattr(packaged.coca_jax, "__file__", str(installed / "__init__.py"))
    assert packaged.names.__wrapped__() == {"theirs": installed / "configs" / "theirs.py"}
    assert packaged.summary(installed / "configs" / "theirs.py") == ""


def test_the_version_option_names_what_matters():
    done = subprocess.run(
        [sys.executable, "-m", "coca_jax", "--version"], capture_output=True, text=True, check=True
    )
    versions = dict(line.split() for line in done.stdout.splitlines())
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions.keys() >= {"coca_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"}
