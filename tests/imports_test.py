"""The arrows between folders go one way, and heavy packages stay behind their doors."""

import ast
import itertools
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "coca_jax"

# To all.
OPEN = {"errors", "accelerators", "fields", "patches", "registry", "trees", "versions", "io"}
# Each folder, file or module of the package, and which others it may import. What compiles ahead
# lies above the trainer, the rest of `planning` below it.
ALLOWED = {
    "models": set(),
    "losses": set(),
    "datasets": {"data"},
    "data": {"datasets"},
    "data_tools": {"data", "datasets"},
    "distributed": set(),
    "checkpoints": set(),
    "doctor": {"distributed", "train.compile_cache"},
    "observe": {"observe.writers"},
    "observe.writers": set(),  # names that the configuration chooses among, and their options
    "config": {
        *("models", "losses", "data", "distributed"),
        *("train.optimizers", "evaluate.registry", "observe.writers"),
    },
    "evaluate.registry": set(),  # names that the configuration chooses among
    "planning": {"models", "data"},
    "generate": {"models"},
    "interop": {"models", "config"},  # weights of other projects
    "interop.convert": {  # folders of them, made of our models or made into these
        *("models", "data", "config", "distributed", "checkpoints", "inference"),
        *("interop", "validation"),
    },
    "interop.average": {  # folders of one model made of several
        *("data", "config", "checkpoints", "inference", "interop", "interop.convert"),
    },
    "interop.tokenizer_files": {"data"},
    "interop.model_card": {
        *("models", "config", "losses", "evaluate", "inference", "planning", "interop"),
    },
    "interop.publish": {
        *("models", "config", "inference", "interop", "interop.convert", "interop.model_card"),
        "interop.tokenizer_files",
    },
    "inference": {
        *("models", "data", "distributed", "checkpoints", "config", "generate", "interop"),
    },
    "image_search": {"data", "inference"},
    "batch_inference": {"data", "inference", "image_search"},
    "export": {"models", "data", "inference", "interop.tokenizer_files"},
    "evaluate": {
        *("data", "data_tools", "losses", "models", "config", "inference", "generate"),
        "evaluate.registry",
    },
    "serve": {"data", "evaluate", "image_search", "inference"},
    "validation": {
        *("config", "data", "distributed", "evaluate", "losses", "models", "observe.writers"),
    },
    "train": {
        *("models", "losses", "data", "distributed", "checkpoints", "config", "interop"),
        *("evaluate", "inference", "observe", "planning", "train.optimizers", "validation"),
        *("observe.writers", "train.compile_cache"),
    },
    "train.compile_cache": set(),
    "train.optimizers": set(),  # names that the configuration chooses among
    "planning.aot": {
        *("models", "losses", "data", "distributed", "config", "planning", "train", "validation"),
    },
    "planning.search": {"config", "distributed", "planning", "planning.aot"},
    "sweep": {
        *("checkpoints", "data", "config", "evaluate", "observe", "observe.writers", "planning"),
        *("train", "train.compile_cache", "validation"),
    },
}


def imported(path):
    """Names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    names = path.relative_to(PACKAGE).with_suffix("").parts
    module = ".".join(names[:2])
    return module if module in ALLOWED else names[0]


@pytest.mark.parametrize("part", ALLOWED)
def test_arrows(part):
    allowed = ALLOWED[part] | {part, *OPEN, "__version__"}
    for path in files():
        if part_of(path) != part:
            continue
        for module in imported(path):
            words = module.split(".")
            if words[0] == "coca_jax" and len(words) > 1:
                name = ".".join(words[1:3])
                assert (name if name in ALLOWED else words[1]) in allowed, (
                    f"{path} imports {module}"
                )


def test_every_part_has_its_arrows():
    parts = {part_of(path) for path in files()}
    assert parts - set(ALLOWED) == {"cli", *OPEN, "__init__", "__main__"}


def test_doors():
    for path in files():
        roots = {module.split(".")[0] for module in imported(path)}
        assert not roots & {"tensorflow", "torch"}, path
        # The one reader of pickles lets them call nothing but its own functions.
        assert "pickle" not in roots or path == PACKAGE / "interop/torch_file.py", path
        if part_of(path) != "checkpoints":
            assert "orbax" not in roots, path


def test_help_imports_nothing_heavy():
    code = """
import sys
from coca_jax.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"jax", "flax", "numpy", "tensorflow_datasets", "orbax", "cv2", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout and "evaluate" in done.stdout


def test_private_parts_of_jax_are_explained():
    for path in files():
        lines = path.read_text().splitlines()
        for above, line in itertools.pairwise(lines):
            if re.search(r"\bjax\._src\b|\bjaxlib\._", line):
                assert above.strip().startswith("# Private: "), f"{path}: {line.strip()}"
