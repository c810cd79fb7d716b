import json
import types

import pytest

from coca_jax import cli
from coca_jax.evaluate.runner import EvalResults


@pytest.mark.parametrize("workdir", ["run/checkpoints/7", "run", "hf-hub:org/name"])
def test_results_are_written_to_the_models_folder(workdir, tmp_path, monkeypatch):
    folder, asked = tmp_path / "run", []
    source = types.SimpleNamespace(workdir=folder)
    model = types.SimpleNamespace(config=None, step=7)
    results = EvalResults({"mine": {"top1": 0.5}}, {"mine": {}}, {})
    for name, value in {
        "cli.commands.runs._join": lambda config: None,
        "validation.validate": lambda config, reads=(): None,
        "inference.find_checkpoint": lambda *found: asked.append(found) or source,
        "inference.load_from": lambda source, devices: model,
        "train.compile_cache.use_compile_cache": lambda _, place: asked.append(place),
        "evaluate.runner.require_runnable": lambda *_: None,
        "evaluate.runner.evaluate": lambda *_: results,
    }.items():
        monkeypatch.setattr(f"coca_jax.{name}", value)
    config = "configs/shapes.py"
    assert cli.main(["evaluate", "--config", config, "--workdir", workdir, "--step", "7"]) == 0
    assert asked == [(workdir, 7), folder]
    assert json.loads((folder / "eval/7.json").read_text()) == {"mine": {"top1": 0.5}}
