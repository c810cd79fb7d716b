"""The teacher of `loss.distillation`: its embeddings of each batch, computed before the step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from coca_jax.config import model_config
from coca_jax.distributed import Partitioner
from coca_jax.errors import UserError
from coca_jax.inference.loading import find_checkpoint, restore_params
from coca_jax.inference.sources import Source
from coca_jax.losses.distillation import TEACHER_IMAGES, TEACHER_TEXTS
from coca_jax.models import make_model, normalize_pixels
from coca_jax.patches import PatchBudget, Target
from coca_jax.train.gradient import SEGMENTS, Batch, joined, split
from coca_jax.train.warm_start import tokenizer_problems


def find_teacher(config: ConfigDict, tokenizer_file: str) -> Source | None:
    """The model that a run imitates; None: its configuration has no distillation.

    Args:
      config: the run's.
      tokenizer_file: the file of its tokenizer; empty if it has none.

    Raises:
      UserError: there is no such model, or it cannot embed this run's images and texts.
    """
    if not config.loss.distillation.weight:
        return None
    source = find_checkpoint(config.loss.distillation.teacher)
    teacher, student = model_config(source.config), model_config(config)
    problems = tokenizer_problems(source, config, tokenizer_file)
    if teacher.contrastive == "none":
        problems.append("it has no embeddings: it was trained without a contrastive loss")
    if teacher.image.target != student.image.target:
        sizes = (_size(model.image.target) for model in (teacher, student))
        problems.append("its images have {}, and this run's {}".format(*sizes))
    if teacher.text.context_length < student.text.context_length:
        problems.append(
            f"its texts have {teacher.text.context_length} tokens at most, and this run's "
            f"{student.text.context_length}"
        )
    if config.data.packing.texts_per_row > 1:
        if teacher.head is not None:
            problems.append("it has a head, which takes no packed texts (config.data.packing)")
        if teacher.text.shifted_cls_mask:
            problems.append(
                "it has OpenCLIP's mask (shifted_cls_mask), which takes no packed texts "
                "(config.data.packing)"
            )
    if problems:
        raise UserError(
            f"config.loss.distillation.teacher: {source.title} cannot be the teacher:\n"
            + "\n".join(problems)
        )
    return source


def _size(target: Target) -> str:
    if isinstance(target, PatchBudget):
        return f"at most {target.length} patches of {target.patch} pixels"
    return f"{target} pixels"


class Teacher:
    """A frozen model that adds its embeddings to batches."""

    def __init__(self, source: Source, partitioner: Partitioner, count: int):
        """Restores its parameters.

        Args:
          source: of `find_teacher`.
          partitioner: of the run.
          count: micro-batches in which a batch is embedded.

        Raises:
          UserError: its files are damaged.
        """
        self._partitioner = partitioner
        device = partitioner.mesh.devices.flat[0]
        model = make_model(model_config(source.config, device))
        self._params = restore_params(source, partitioner)
        function = functools.partial(_embeddings, model, count)
        self._function = jax.jit(function, out_shardings=partitioner.batch)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `teacher_images` [n, k], times their scale, and `teacher_texts`."""
        inputs = {name: batch[name] for name in ("image", "text", SEGMENTS) if name in batch}
        with self._partitioner.context():
            images, texts = self._function(self._params, inputs)
        return batch | {TEACHER_IMAGES: images, TEACHER_TEXTS: texts}


def _embeddings(model: Any, count: int, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    image, rows = model.config.image, len(batch["text"])

    def embed(_: None, piece: Batch) -> tuple[None, Any]:
        pixels = normalize_pixels(piece["image"], image.mean, image.std)
        more = () if model.config.head is not None else (piece.get(SEGMENTS),)
        output = model.apply({"params": params}, pixels, piece["text"], *more)
        return None, output.only(("image_embeddings", "text_embeddings", "logit_scale"))

    pieces = jax.tree.map(lambda x: split(x, count, rows), batch)
    output = joined(jax.lax.scan(embed, None, pieces)[1], rows)
    return output.logit_scale * output.image_embeddings, jnp.asarray(output.text_embeddings)
