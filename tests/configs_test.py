"""Every experiment is a right configuration, at its own size and at the smoke test's."""

import pathlib

import pytest

from coca_jax.config import load_config, model_config, validate
from coca_jax.data import checks
from coca_jax.evaluate.runner import mistakes
from coca_jax.planning import parameter_counts
from coca_jax.train import comparison, loop

COMPARISON = pathlib.Path(__file__).parent.parent / "configs/compare.py"
FILES = sorted({*COMPARISON.parent.glob("*.py")} - {COMPARISON})


CLASSES = {"vqav2": 3129, "imagenet": 1000}  # whose names are in a file of the user's


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_is_right_at_both_sizes(file, tmp_path):
    overrides = []
    if count := CLASSES.get(file.stem):
        (tmp_path / "classes.txt").write_text("\n".join(map(str, range(count))))
        overrides = [f"--config.head.class_file={tmp_path / 'classes.txt'}"]
    config = load_config(str(file), overrides)
    assert len(config.head.classes) == count or not count
    validate(config, 8, [*mistakes(config.eval), *checks.mistakes(config.data)])
    smoke = load_config(f"{file}:smoke")
    validate(smoke, 1, mistakes(smoke.eval))
    assert smoke.train.steps <= 10
    assert sum(parameter_counts(model_config(smoke)).values()) < 5e6


@pytest.mark.parametrize("argument", ["", ":objectives", ":training", ":architecture", ":smoke"])
def test_the_comparison_is_right(argument):
    assert comparison.mistakes(load_config(f"{COMPARISON}{argument}"), 1) == []


def test_the_papers_recipe_trains_shrunk(prepared, tmp_path):
    config = load_config("configs/coca_2b.py:smoke", [f"--config.data.dir={prepared}"])
    loop.train(config, tmp_path)
    assert (tmp_path / "checkpoints/4").is_dir()


@pytest.mark.parametrize("name", ["imagenet", "shapes_classification"])
def test_a_frozen_model_learns_its_head_only(name, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog")
    file = [f"--config.head.class_file={tmp_path / 'classes.txt'}"] * (name == "imagenet")
    config = load_config(f"configs/{name}.py:frozen", file)
    validate(config, 8)
    assert config.optimizer.learning_rates[-1] == (".*", 0.0)
