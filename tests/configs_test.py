"""Every experiment is a valid configuration, at its own size and at that of its smoke test."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from models.random_params import random_params

import coca_jax
from coca_jax.config import load_config, model_config
from coca_jax.data_tools.prepare import prepare
from coca_jax.datasets import ShapesClips, ShapesPages, ShapesPairs, ShapesRelations
from coca_jax.distributed import make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate.metrics.undefined import defined, reasons
from coca_jax.evaluate.runner import evaluate, runnable_evals
from coca_jax.inference import LoadedModel
from coca_jax.planning import parameter_counts, training_flops
from coca_jax.planning.aot import estimate_ahead
from coca_jax.sweep.runs import planned_runs, stages_of
from coca_jax.sweep.validation import sweep_errors
from coca_jax.train import experiment, loop
from coca_jax.validation import validate

pytestmark = pytest.mark.usefixtures("compiled_once")

count_parameters = functools.cache(lambda model: sum(parameter_counts(model).values()))

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
SWEEPS = {
    "compare": ("", ":smoke"),
    "compare_fashion_mnist": ("", ":smoke"),
    "directions": ("", ":smoke", ":shapes", ":emoji", ":fashion_mnist"),
}
FILES = [file for file in sorted(CONFIGS.glob("*.py")) if file.stem not in SWEEPS]
COMPARISONS = [f"{CONFIGS / name}.py{of}" for name, arguments in SWEEPS.items() for of in arguments]
CLASSES = {"vqav2": 3129, "imagenet": 1000}  # whose names are in a file of the user's


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_is_valid_at_both_sizes(file, tmp_path):
    overrides = []
    if count := CLASSES.get(file.stem):
        (tmp_path / "classes.txt").write_text("\n".join(map(str, range(count))))
        overrides = [f"--config.head.class_file={tmp_path / 'classes.txt'}"]
    config = load_config(str(file), overrides)
    assert len(config.head.classes) == count or not count
    validate(config, 8)
    smoke = load_config(f"{file}:smoke")
    validate(smoke, 1)
    assert smoke.train.steps <= 10
    assert count_parameters(model_config(smoke)) < 5e6


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("shapes_pages", ("native", "squash", "pad")),
        ("shapes_relations", ("negatives", "matching", "both")),
        ("shapes_classification", ("frozen",)),
    ],
)
def test_other_arguments_are_valid_and_are_listed(name, arguments):
    trees = [load_config(f"{CONFIGS / name}.py{of}") for of in ("", *(f":{a}" for a in arguments))]
    for config in trees:
        validate(config, 1)
    assert len({config.to_json_best_effort() for config in trees}) >= len(arguments)
    with pytest.raises(UserError, match=re.escape(f"are {str([*arguments, 'smoke'])[1:-1]}")):
        load_config(f"{CONFIGS / name}.py:wrong")


@pytest.mark.parametrize("name", COMPARISONS, ids=lambda name: pathlib.Path(name).name)
def test_a_sweep_is_valid(name):
    assert sweep_errors(load_config(name), 1) == []


@pytest.mark.parametrize("argument", ["", ":smoke", ":shapes", ":emoji", ":fashion_mnist"])
def test_rows_of_equal_flops_train_for_as_many_flops(argument):
    config = load_config(f"{CONFIGS / 'directions.py'}{argument}")
    runs, totals = planned_runs(config), {}
    for run in runs:
        stage = stages_of(config, run, "nowhere")[0].config
        model = model_config(stage)
        teacher = model if stage.loss.distillation.weight else None
        flops = training_flops(model, stage.data.packing, teacher)
        totals[run.name] = stage.train.steps * flops
    names = [name for name, _ in dict(config.tables)["equal FLOPs"]]
    assert len(names) > 1
    for name in names:
        assert totals[name] == pytest.approx(totals["coca"], rel=0.1 if argument else 1e-2)
    costs = {name: totals[name] for name, _ in dict(config.tables)["equal steps"]}
    assert len(set(costs.values())) >= len(names) - 1


@pytest.mark.parametrize("table", ["objectives", "training", "architecture"])
def test_a_comparison_may_be_one_of_its_tables(table):
    whole, part = (load_config(f"{CONFIGS / 'compare.py'}{of}") for of in ("", f":{table}"))
    assert dict(whole.tables)[table] == dict(part.tables)[table] and len(part.tables) == 1


def test_a_step_of_the_papers_recipe_is_traced():
    config = load_config("configs/coca_2b.py:smoke")
    step = estimate_ahead(config, make_mesh(config.mesh, jax.devices()[:1]))
    # Rematerialization computes most of the forward pass again.
    assert step.hardware_flops > 1.2 * training_flops(model_config(config)) * 16


@pytest.mark.slow
def test_the_papers_recipe_trains_shrunk(prepared, tmp_path):
    overrides = [f"--config.data.dir={prepared}", "--config.mesh.data=1", "--config.train.steps=3"]
    loop.train(load_config("configs/coca_2b.py:smoke", overrides), tmp_path)
    assert (tmp_path / "checkpoints/3").is_dir()


@pytest.mark.parametrize("name", ["imagenet", "shapes_classification"])
def test_a_frozen_model_learns_its_head_only(name, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog")
    file = [f"--config.head.class_file={tmp_path / 'classes.txt'}"] * (name == "imagenet")
    config = load_config(f"configs/{name}.py:frozen", file)
    validate(config, 8)
    assert config.optimizer.learning_rates[-1] == (".*", 0.0)


@pytest.fixture(scope="module")
def all_shapes(prepared):
    """The folder with the built-in data sets of shapes, small."""
    counts = {"train": 40, "test": 16, "test_novel": 8}
    with pytest.MonkeyPatch.context() as patch:
        for module in (ShapesPairs, ShapesClips, ShapesRelations, ShapesPages):
            patch.setattr(module, "counts", counts)
        for name in ("shapes_pairs", "shapes_clips", "shapes_relations", "shapes_pages"):
            prepare(name, prepared)
    return prepared


SHAPES = (
    "pairs",
    "entailment",
    "clips",
    "vqa",
    "captioning",
    "lit",
    "classification",
    "relations",
    "pages",
)
PUBLISHED = ("vqav2", "snli_ve", "imagenet", "coco_captioning")


@pytest.mark.parametrize(
    "name", ["nlvr2", *(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED)]
)
def test_a_published_task_is_traced_and_evaluated(name, all_shapes, tmp_path):
    """Its batches fit its step, and its evaluations what its model gives.

    Tasks of shapes, which have the same parts, are trained.
    """
    config = load_config(f"configs/{name}.py:smoke", [f"--config.data.dir={all_shapes}"])
    config.mesh.data = 1
    built = experiment.build(config, tmp_path)
    state = built.program.factory.abstract
    batch = next(built.stream.batches())
    new_state, metrics = built.program.trace(state, batch).out_info
    assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)
    for loss in ("contrastive", "captioning", "classification"):
        assert (f"{loss}_loss" in metrics) == (config.loss[loss].weight > 0)
    params = random_params(built.program.model)
    model = LoadedModel(built.program.model, params, built.tokenizer, built.program.partitioner)
    results = evaluate(model, config)
    results.raise_failures()
    assert results.metrics.keys() == set(runnable_evals(config, model.config))
    assert all(values["count"] > 0 for values in results.metrics.values() if "count" in values)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_task_trains_and_evaluates_and_its_model_loads(name, all_shapes, tmp_path):
    config = load_config(f"configs/shapes_{name}.py:smoke", [f"--config.data.dir={all_shapes}"])
    config.update_from_flattened_dict({"train.steps": 3, "mesh.data": 1})
    loop.train(config, tmp_path)
    results = json.loads((tmp_path / "eval/3.json").read_text())
    assert results.keys() == set(runnable_evals(config, model_config(config)))
    assert all(values["count"] > 0 for values in results.values() if "count" in values)
    model = coca_jax.load(tmp_path, devices=jax.devices()[:1])
    assert model.classes == tuple(config.head.classes) * bool(config.loss.classification.weight)
    # The model that is loaded from the folder has the same results.
    again = evaluate(model, config)
    assert not again.failures
    for evaluation, values in again.metrics.items():
        stored = results[evaluation]
        assert stored.get("notes", {}) == reasons(values), evaluation
        numbers = {name: stored[name] for name in defined(values)}
        assert defined(values) == pytest.approx(numbers, abs=1e-4), evaluation
