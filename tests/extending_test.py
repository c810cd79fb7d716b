"""The examples of docs/extending.md, run as they stand there."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from small_run import SMALL, STEPS

from coca_jax.config import load_config
from coca_jax.data.from_config import make_tokenizer_from, make_train_stream
from coca_jax.data.sources import sources
from coca_jax.data.tokenizers import tokenizers
from coca_jax.errors import UserError
from coca_jax.evaluate.registry import evaluations
from coca_jax.inference import load
from coca_jax.losses import losses
from coca_jax.observe.writers import MetricWriter, read_metrics, writers
from coca_jax.train import loop
from coca_jax.train.optimizers import optimizers
from coca_jax.validation import validate

PAGE = pathlib.Path(__file__).parents[1] / "docs/extending.md"


def example(section):
    """The code of a section of the page."""
    return re.search(rf"^## {section}\n.*?```python\n(.*?)```", PAGE.read_text(), re.S | re.M)[1]


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    for registry in (evaluations, losses, optimizers, sources, tokenizers, writers):
        monkeypatch.setattr(registry, "_added", {})


def test_every_example_is_short():
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        assert len(code.splitlines()) < 25


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_source_and_a_tokenizer(tmp_path, workers):
    (tmp_path / "digits.py").write_text(
        f"{example('A data source')}\n{example('A tokenizer')}\n"
        "from coca_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.data.train.update({'format': 'digits', 'split': '1000'})\n"
        "    config.data.tokenizer.kind = 'digits'\n"
        "    config.model.text.update({'vocab_size': 13, 'pad_id': 10})\n"
        "    return config\n"
    )
    config = load_config(str(tmp_path / "digits.py"), [f"--config.data.workers={workers}"])
    stream = make_train_stream(
        config.data, image_size=(32, 32), text_length=6, batch_size=50, seed=0
    )
    batches = stream.batches()
    batch = next(batches)
    batches.close()
    refs = [stream.mixture[index] for index in range(50)]
    texts = make_tokenizer_from(config.data).decode(batch["text"])
    assert texts == [str(ref.index) for ref in refs] and not stream.errors
    assert (np.ptp(batch["image"].reshape(50, -1), axis=1) > 200).all()


def test_an_evaluation(prepared, small_run, tmp_path):
    """A finished run gains it: its options are checked, and its results are written."""
    (tmp_path / "words.py").write_text(example("An evaluation"))
    config = load_config(f"{tmp_path / 'words.py'}:smoke", ["--config.eval.words.length=5"])
    assert config.eval.words.length == 5
    config.update_from_flattened_dict(SMALL | {"data.dir": prepared})
    workdir = shutil.copytree(small_run, tmp_path / "run")
    loop.train(config, workdir)
    results = json.loads((workdir / f"eval/{STEPS}.json").read_text())
    assert 0 <= results["words"]["words"] <= 5
    config.eval.words.length = 100
    with pytest.raises(UserError, match=r"words\.length=100 should be a whole number from 2 to 64"):
        validate(config)


def test_a_loss_and_an_optimizer(tmp_path, prepared):
    (tmp_path / "mine.py").write_text(
        f"{example('A loss')}\n{example('An optimizer')}\n"
        "from coca_jax.config import load_config\n"
        "def get_config():\n"
        f"    config = load_config('{PAGE.parents[1]}/configs/shapes.py:smoke')\n"
        "    config.loss.alignment.weight = 0.5\n"
        "    config.loss.contrastive.weight = 0.0\n"
        "    config.optimizer.name = 'momentum'\n"
        "    config.eval = {}\n"
        "    config.train.update({'steps': 3, 'log_every': 1, 'grad_accum_steps': 2})\n"
        "    config.update_from_flattened_dict({'mesh.data': 1, 'model.image.width': 32})\n"
        "    return config\n"
    )
    config = load_config(str(tmp_path / "mine.py"), [f"--config.data.dir={prepared}"])
    loop.train(config, tmp_path / "run")
    records = read_metrics(tmp_path / "run")
    for record in records:
        total = 2 * record["train/captioning_loss"] + 0.5 * record["train/alignment_loss"]
        assert record["train/loss"] == pytest.approx(total, rel=1e-6)
    # The first step has no learning rate, and no contrastive loss made the embeddings exist.
    distances = [record["train/distance"] for record in records]
    assert distances[0] > 0.1 and distances[2] != distances[0]
    assert "train/contrastive_loss" not in records[0]
    losses._added.clear()
    with pytest.raises(UserError, match="loss alignment, which is not registered in this process"):
        load(tmp_path / "run")


def test_a_metrics_writer(tmp_path):
    exec(example("A metrics writer"), {})
    for resume_step, steps in ((None, (1, 2, 3)), (2, (3, 4))):
        writer = MetricWriter(tmp_path, resume_step)
        for step in steps:
            writer.write(step, {"train/loss": step * 0.5, "train/mfu": 0.1})
        writer.write(steps[-1], {"eval/zero_shot/top1": 0.5})
        writer.close()
    rows = (tmp_path / "loss.tsv").read_text().splitlines()
    assert rows == [f"{step}\t{step * 0.5}" for step in (1, 2, 3, 4)]
