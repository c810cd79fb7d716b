import pathlib
import sys

import pytest
from ml_collections import FrozenConfigDict

from coca_jax.config import load_config, packaged
from coca_jax.config.python_file import run_file
from coca_jax.errors import UserError

SAYS_ARGUMENT = """
from ml_collections import ConfigDict
def get_config(argument=None):
    return ConfigDict({"argument": repr(argument)})
"""


@pytest.mark.parametrize("folder", ["plain", "a:b", "a:b.py:c", "a b#%?[x]{y}"])
def test_the_longest_beginning_that_is_a_file_is_the_file(tmp_path, folder):
    file = tmp_path / folder / "c.py"
    file.parent.mkdir()
    file.write_text(SAYS_ARGUMENT)
    assert run_file(str(file)).argument == "None"
    assert run_file(f"{file}:").argument == "None"
    assert run_file(f"{file}:smoke").argument == "'smoke'"
    assert run_file(f"{file}:a:~/b").argument == "'a:~/b'"
    (file.parent / "c.py:smoke").write_text(SAYS_ARGUMENT)
    assert run_file(f"{file}:smoke").argument == "None"


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.py").write_text(SAYS_ARGUMENT)
    assert run_file("~/c.py:smoke").argument == "'smoke'"
    assert run_file((tmp_path / "c.py").as_uri() + ":a:b").argument == "'a:b'"


def test_a_packaged_name_counts_where_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_file("shapes").train.steps == 1000
    assert run_file("shapes:smoke").train.steps == 8
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes.py").write_text(SAYS_ARGUMENT)
    assert run_file("shapes").train.steps == 1000
    assert run_file("shapes.py").argument == "None"
    (tmp_path / "shapes:smoke").write_text(SAYS_ARGUMENT)
    assert run_file("shapes:smoke").argument == "None"


def test_a_file_may_import_its_neighbors(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "base_of_a_test.py").write_text(SAYS_ARGUMENT)
    (tmp_path / "later_of_a_test.py").write_text("")
    (tmp_path / "c.py").write_text(
        "import sys\n"
        "from base_of_a_test import get_config as base\n"
        "def get_config(argument):\n"
        "    import later_of_a_test\n"
        f"    assert sys.path[0] == {str(tmp_path)!r}\n"
        "    return base(argument)\n"
    )
    for _ in range(2):
        assert run_file(f"{tmp_path}/c.py:a").argument == "'a'"
        assert sys.path.count(str(tmp_path)) == 1 and sys.path[-1] == str(tmp_path)
    sys.path.insert(3, sys.path.pop())
    before = sys.path[:]
    run_file(f"{tmp_path}/c.py:a")
    assert sys.path == before


def test_a_module_is_found_in_the_current_folder_last(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here_of_a_test.py").write_text(SAYS_ARGUMENT)
    (tmp_path / "json.py").write_text(SAYS_ARGUMENT)
    assert run_file("here_of_a_test:a").argument == "'a'"
    with pytest.raises(UserError, match="json: it should define get_config"):
        run_file("json")


def test_a_module_may_import_its_neighbors(tmp_path, monkeypatch):
    package = tmp_path / "lab_of_a_test" / "experiments"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "base.py").write_text(SAYS_ARGUMENT)
    (package / "first.py").write_text("from .base import get_config")
    (package / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_file("lab_of_a_test.experiments.first").argument == "None"
    assert run_file("lab_of_a_test.experiments.first:a:b").argument == "'a:b'"
    with pytest.raises(
        UserError, match=r"experiments\.broken cannot be used: Zero.*broken\.py, line 1\)"
    ):
        run_file("lab_of_a_test.experiments.broken:smoke")
    with pytest.raises(UserError, match=r"lab_of_a_test: it should define get_config"):
        run_file("lab_of_a_test")
    for name in ("experiments.absent", "experiments.first.absent", "absent"):
        with pytest.raises(UserError, match=r"absent' is not a file, a module or one of"):
            run_file(f"lab_of_a_test.{name}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lab_that_exits", "raise SystemExit(3)", "cannot be used: SystemExit: 3"),
        ("lab_that_lacks", "import absent_module", "cannot be used: .* named 'absent_module'"),
        ("lab_that_fails", "\n1 / 0", r"cannot be used: Zero.*__init__\.py, line 2\)"),
    ],
)
def test_a_package_that_cannot_be_imported(tmp_path, monkeypatch, name, content, message):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(content)
    (tmp_path / name / "first.py").write_text(SAYS_ARGUMENT)
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (f"{name}.first", f"{name}.first:smoke"):
        with pytest.raises(UserError, match=rf"{name}\.first {message}"):
            run_file(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent/c.py:smoke", "configuration file 'absent/c.py' does not exist"),
        ("a:b/c.py", "configuration file 'a:b/c.py' does not exist"),
        ("", "--config '' is not a file, a module or one of the packaged configurations"),
        (
            "shaps:smoke",
            "--config 'shaps:smoke' is not a file, a module or one of the packaged .*"
            "; did you mean shapes?",
        ),
        ("no_such.module", "--config 'no_such.module' is not a file, a module"),
        ("a\0b.py", r"configuration file 'a\\x00b.py' does not exist"),
        (".", r"--config '\.' is a folder; it should be a Python file"),
        (".:smoke", r"--config '\.' is a folder; it should be a Python file"),
    ],
)
def test_a_file_that_is_not_there(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run_file(spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = (", "not a Python program: SyntaxError"),
        (b"x = '\xff'", "not a Python program: SyntaxError: .*utf-8"),
        (b"x = '\0'", "not a Python program: "),
        (b"def get_config(): pass\n  x = 1", "not a Python program: IndentationError"),
        (b"x = 1", r"should define get_config\(argument=None\)"),
        (b"get_config = 5", r"should define get_config\(argument=None\)"),
        (b"def get_config():\n return {}['a']", r"used: KeyError: 'a' \(.*config\.py, line 2\)$"),
        (
            b"from coca_jax.config import default_config\n"
            b"def get_config():\n"
            b"    return default_config().trian.steps",
            r"used: AttributeError: 'trian' Did you mean \"train\" .*\? \(.*config\.py, line 3\)$",
        ),
        (
            b"from ml_collections import ConfigDict\nConfigDict().lock().new = 1",
            r"used: \w+: [^'\"].*config\.py, line 2\)$",
        ),
        (b"import absent_module", "cannot be used: ModuleNotFoundError"),
        (b"raise SystemExit(3)", "cannot be used: SystemExit: 3"),
        (b"def get_config(argument): return get_config(argument)", "cannot be used: Recursion"),
        (b"def get_config(argument): return {}", "should return a ConfigDict, not dict"),
        (b"def get_config(argument): pass", "should return a ConfigDict, not NoneType"),
        (b"def get_config(a, b): pass", "cannot be used: TypeError: .*missing 2.* 'b'$"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "config.py"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        run_file(str(path))
    assert str(path) in str(caught.value)


def test_a_dataclass_may_have_annotations_that_are_texts(tmp_path):
    (tmp_path / "c.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine:\n"
        "    argument: str = ''\n"
        f"{SAYS_ARGUMENT}"
    )
    assert run_file(str(tmp_path / "c.py")).argument == "None"
    assert "coca_config" not in sys.modules  # else worker processes would import it


def test_a_function_without_parameter_takes_no_argument(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("from coca_jax.config import default_config as get_config")
    assert run_file(str(path)).train.steps == 1000
    with pytest.raises(UserError, match="get_config takes no argument, and 'smoke' is given"):
        run_file(f"{path}:smoke")


def test_a_file_that_was_changed_is_read_anew(tmp_path):
    path = tmp_path / "config.py"
    for number in "123":  # within a second, and of one size: compiled files would not differ
        path.write_text(
            f"from ml_collections import ConfigDict\ndef get_config(argument):\n"
            f"    return ConfigDict({{'number': {number}}})\n"
        )
        assert run_file(str(path)).number == int(number)
    assert not list(pathlib.Path(tmp_path).glob("__pycache__"))


def test_frozen_and_locked_configurations_take_overrides(tmp_path):
    path = tmp_path / "config.py"
    for end in ("FrozenConfigDict(default_config())", "default_config().lock()"):
        path.write_text(
            "from ml_collections import FrozenConfigDict\n"
            "from coca_jax.config import default_config\n"
            f"def get_config(argument): return {end}\n"
        )
        config = load_config(str(path), ["--config.train.steps=5"])
        assert config.train.steps == 5 and not isinstance(config, FrozenConfigDict)
        config.eval.new = {"kind": "retrieval"}


def test_packaged_configurations_are_no_modules_of_others(monkeypatch):
    folder = str(packaged.names()["shapes"].parent)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != folder])
    run_file("shapes:smoke")
    assert folder not in sys.path
