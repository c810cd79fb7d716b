"""Recipes that several experiments share."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.tree import default_config, finish
from coca_jax.models.config import ImageConfig
from coca_jax.models.presets import preset

# `:smoke` of the experiments below: the same parts, shrunk, on the built-in `shapes`.
SMOKE = {
    "model.image": asdict(
        ImageConfig(size=32, patch=8, width=32, num_layers=2, num_heads=4, mlp_dim=64)
    ),
    "model.text.vocab_size": 400,
    "model.text.context_length": 28,
    "model.text.width": 32,
    "model.text.unimodal_layers": 2,
    "model.text.multimodal_layers": 2,
    "model.text.num_heads": 4,
    "model.text.mlp_dim": 64,
    "model.pooler.caption_queries": 4,
    "model.pooler.num_heads": 4,
    "optimizer.warmup_steps": 2,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "data.train.name": "shapes",
    "mesh.fsdp": 1,
}
HIGH_RESOLUTION_SMOKE = SMOKE | {"model.image.size": 64, "init.path": ""}


def pretraining(name: str) -> ConfigDict:
    """The paper's pretraining (arXiv 2205.01917, section 4.1) of one of its models.

    65,536 pairs a step for 500,000 steps, Adafactor, warm-up over the first 2% of the steps to
    8e-4, then linear decay to 0. JFT and ALIGN are not public: `data.train.name` must be set to a
    prepared TFDS data set, and `data.tokenizer.path` to a SentencePiece model of 64,000 pieces.

    Args:
      name: base, large or 2b.
    """
    config = default_config()
    config.model = ConfigDict(preset(name))
    config.model.remat = "full"
    config.optimizer.update({"learning_rate": 8e-4, "warmup_steps": 10_000, "clip_norm": 0.0})
    config.train.update({"steps": 500_000, "batch_size": 65_536, "log_every": 100})
    config.checkpoint.every = 2_000
    config.data.train.update({"name": "my_pairs", "min_crop_area": 0.5, "flip": True})
    config.data.threads = 16
    config.mesh.fsdp = 8
    return config


def high_resolution(name: str) -> ConfigDict:
    """The epoch at 576 pixels that follows the paper's pretraining (section 4.1).

    Starts from the parameters in `init.path`, with the positions of the 16 x 16 patches resampled
    to 32 x 32. The paper says no more than "one epoch". Our choices: one pass over JFT-3B, of which
    each step saw 32,768 images; a tenth of pretraining's learning rate, with the same schedule; a
    fresh optimizer state; all else as in pretraining. For your own pairs, set `train.steps` to
    their number / 65,536.

    Args:
      name: base, large or 2b.
    """
    config = pretraining(name)
    config.model.image.size = 576
    config.init.path = f"runs/{name}"
    config.train.steps = 92_000
    config.optimizer.update({"learning_rate": 8e-5, "warmup_steps": 1_840})
    return config


# `:smoke` of the experiments on `shapes`: a size that runs in seconds.
SHAPES_SMOKE = {
    "model.image.num_layers": 1,
    "model.text.unimodal_layers": 1,
    "model.text.multimodal_layers": 1,
    "train.steps": 8,
    "train.batch_size": 16,
    "train.log_every": 2,
    "optimizer.warmup_steps": 2,
}
# `:smoke` of tasks on `shapes`: from random parameters, with a tokenizer of bytes.
SHAPES_TASK_SMOKE = SHAPES_SMOKE | {
    "init.path": "",
    "data.tokenizer.kind": "byte",
    "data.tokenizer.path": "",
    "model.text.context_length": 64,
}


def shapes_training(steps: int, batch_size: int = 96) -> ConfigDict:
    """Training on `shapes`, of a new model or of one that is fine-tuned.

    Args:
      steps: of the run.
      batch_size: examples a step.
    """
    config = default_config()
    config.optimizer.name = "adamw"
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 0.1
    config.train.steps = steps
    config.train.batch_size = batch_size
    return config


def shapes_finetuning(steps: int, batch_size: int = 96, learning_rate: float = 1e-3) -> ConfigDict:
    """Training on a task on `shapes`, from a run of `configs/shapes.py`.

    Args:
      steps: of the run.
      batch_size: examples a step.
      learning_rate: the peak.
    """
    config = shapes_training(steps, batch_size)
    config.optimizer.learning_rate = learning_rate
    config.init.path = "runs/shapes"
    config.data.tokenizer.path = "runs/shapes/tokenizer.model"
    return config


def with_head(config: ConfigDict, input: str, classes: Sequence[str], **options: Any) -> ConfigDict:
    """Makes a configuration train a head only, without the model's own losses.

    Args:
      config: it is changed.
      input: what the head reads, `image` or `text`.
      classes: names of the classes.
      **options: of `config.loss.classification`.

    Returns:
      The same configuration.
    """
    config.loss.contrastive.weight = 0.0
    config.loss.captioning.weight = 0.0
    config.loss.classification.update({"weight": 1.0, **options})
    config.head.update({"input": input, "classes": tuple(classes)})
    return config


def finetuning(
    name: str, steps: int, batch_size: int, learning_rate: float, encoder: float, decay: float
) -> ConfigDict:
    """The paper's fine-tuning (arXiv 2205.01917, section 4.2 and its appendix).

    Adafactor, gradients clipped at 1, a cosine to 0. The paper gives the warm-up for question
    answering only (1,000 steps); here all tasks have it.

    Args:
      name: base, large or 2b; the run is `runs/<name>`.
      steps: of the task.
      batch_size: examples a step.
      learning_rate: the peak, of new parameters.
      encoder: the peak, of pretrained parameters.
      decay: decoupled weight decay.
    """
    config = pretraining(name)
    config.init.path = f"runs/{name}"
    config.data.tokenizer.path = f"runs/{name}/tokenizer.model"
    config.optimizer.update({"learning_rate": learning_rate, "schedule": "cosine"})
    config.optimizer.update({"warmup_steps": 1000, "clip_norm": 1.0})
    config.optimizer.weight_decay = decay
    if encoder != learning_rate:
        config.optimizer.learning_rates = ((r"head.*", 1.0), (r".*", encoder / learning_rate))
    config.train.update({"steps": steps, "batch_size": batch_size})
    config.data.train.update({"format": "folder", "name": "", "min_crop_area": 1.0, "flip": False})
    config.mesh.fsdp = 1
    return config


def finish_on_shapes(
    config: ConfigDict,
    argument: str | None,
    name: str = "shapes",
    others: Collection[str] = (),
    **changes: Any,
) -> ConfigDict:
    """Applies a configuration file's argument; `smoke` trains and evaluates on built-in data.

    Args:
      config: the experiment, on other data.
      argument: as of `finish`.
      name: of the built-in data set.
      others: as of `finish`.
      **changes: to `config.head`, such as classes that occur in it.
    """
    if argument == "smoke":
        config.head.update({"class_file": "", **changes})
        config.data.train.update({"format": "tfds", "path": "", "name": name, "split": "train"})
        for key, evaluation in config.eval.items():
            kept = {k: v for k, v in evaluation.items() if k not in ("format", "path")}
            config.eval[key] = ConfigDict({**kept, "name": name, "split": "test", "limit": 16})
    smoke = {"init.path": "", "data.tokenizer.kind": "byte", "data.tokenizer.path": ""}
    return finish(config, argument, SMOKE | {"data.train.name": name} | smoke, others)
