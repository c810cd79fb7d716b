"""The teacher of `loss.distillation`: its embeddings of each batch, computed before the step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from coca_jax.checkpoints.metadata import Saved
from coca_jax.checkpoints.processes import say
from coca_jax.config import model_config
from coca_jax.distributed import Partitioner
from coca_jax.errors import UserError
from coca_jax.inference.loading import find_checkpoint, find_recorded, restore_params
from coca_jax.inference.sources import Source
from coca_jax.losses.distillation import TEACHER_IMAGES, TEACHER_TEXTS
from coca_jax.models import make_model, normalize_pixels
from coca_jax.patches import PatchBudget, Target
from coca_jax.train.gradient import SEGMENTS, Batch, joined, split
from coca_jax.train.warm_start import tokenizer_problems

TEACHER = "teacher"  # of a checkpoint's metadata, with what `model_record` returns


def find_teacher(
    config: ConfigDict, tokenizer_file: str, saved: Saved | None = None
) -> Source | None:
    """The model that a run imitates; None: its configuration has no distillation.

    Args:
      config: the run's.
      tokenizer_file: the file of its tokenizer; empty if it has none.
      saved: what the run's newest checkpoint says of itself; None: the run is new.

    Raises:
      UserError: there is no such model, it is not the one that the run began with, or it cannot
        embed this run's images and texts.
    """
    if not config.loss.distillation.weight:
        return None
    source = _same_as_before(config, saved) or find_checkpoint(config.loss.distillation.teacher)
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


def _same_as_before(config: ConfigDict, saved: Saved | None) -> Source | None:
    """The teacher that a run began with; None: it is new, or may take another one."""
    path = config.loss.distillation.teacher
    if saved is None or TEACHER not in saved.metadata:
        return None
    try:
        return find_recorded(saved.metadata[TEACHER], path)
    except UserError as error:
        if config.data.allow_changes:
            say(f"the teacher is not the one that the run began with: {error}")
            return None
        raise UserError(
            f"config.loss.distillation.teacher={path!r} should be the model that the run began "
            f"with: {error}; put it back, or resume with --config.data.allow_changes=True"
        ) from error


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
        packed = {"segments": piece[SEGMENTS]} if SEGMENTS in piece else {}
        output = model.apply({"params": params}, pixels, piece["text"], **packed)
        return None, output.only(("image_embeddings", "text_embeddings", "logit_scale"))

    pieces = jax.tree.map(lambda x: split(x, count, rows), batch)
    output = joined(jax.lax.scan(embed, None, pieces)[1], rows)
    return output.logit_scale * output.image_embeddings, jnp.asarray(output.text_embeddings)
