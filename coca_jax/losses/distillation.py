"""Distillation: the similarities of images and texts become those that a teacher sees.

Each device compares its own images with all texts, `chunk_size` rows of both similarity matrices at
a time, in two passes: the first one computes the normalizers of the softmaxes.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from coca_jax.fields import field, integer, number, path
from coca_jax.losses.base import WEIGHT, Loss, LossAndMetrics, Values
from coca_jax.losses.collectives import (
    Layout,
    all_gather,
    current_layout,
    in_chunks,
    joined,
    pmax,
    psum,
    psum_scatter,
    scan,
    shard_map,
    spec,
)
from coca_jax.losses.contrastive import CHUNK, TEMPERATURE_FLOOR, with_temperature_floor
from coca_jax.losses.similarities import matmul

TEACHER_IMAGES, TEACHER_TEXTS = "teacher_images", "teacher_texts"


@dataclasses.dataclass(frozen=True)
class DistillationLoss(Loss):
    """Contrastive relational distillation (CLIP-KD, arXiv 2307.12732).

    TinyCLIP (arXiv 2309.12314) calls it affinity mimicking. The teacher's embeddings are computed
    before each step, of the images and texts that the step trains on; that costs its forward pass.
    """

    training_only: ClassVar[bool] = True

    weight: float = field(0.0, WEIGHT, number())
    teacher: str = field(
        "",
        "The model that is imitated: a run, one of its checkpoints, or a converted model. Its "
        "tokenizer and its images have to be those of this run.",
        path(),
        resumable=True,
    )
    temperature_floor: float = field(
        TEMPERATURE_FLOOR,
        "The temperature is kept at this value or above, and above that of loss.contrastive where "
        "both are trained.",
        number(1e-6, 1e6),
    )
    chunk_size: int = field(
        CHUNK, "Rows of the similarity matrices that a device holds.", integer(1), resumable=True
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Both embeddings and their scale."""
        return "image_embeddings", "text_embeddings", "logit_scale"

    @property
    def whole_batch(self) -> bool:
        """Always: every image is compared with every text."""
        return True

    def __call__(self, output: Any, batch: Values) -> LossAndMetrics:
        """The divergence per pair, and the share of images of which both choose the same text."""
        loss, agreement = distillation_loss(
            output.image_embeddings,
            output.text_embeddings,
            output.logit_scale,
            batch[TEACHER_IMAGES],
            batch[TEACHER_TEXTS],
            self.chunk_size,
        )
        return loss, {"distillation_agreement": agreement}

    def constrain(self, params: Any) -> Any:
        """Projects the temperature back to at least its floor."""
        return with_temperature_floor(params, self.temperature_floor)


def distillation_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    teacher_images: Float[Array, "n k"],
    teacher_texts: Float[Array, "n k"],
    chunk_size: int = CHUNK,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Divergence from the teacher's softmaxes over the similarities, of images and of texts.

    (1/N) sum_i [KL(p_i || q_i) + KL(p'_i || q'_i)], where q_i is softmax_j(s x_i.y_j), q'_i is
    softmax_j(s x_j.y_i), and p_i and p'_i are the teacher's (arXiv 2307.12732).

    Args:
      images: unit-length embeddings; row i matches row i of `texts`.
      texts: unit-length embeddings.
      scale: 1 / temperature.
      teacher_images: the teacher's embeddings times its scale.
      teacher_texts: the teacher's embeddings.
      chunk_size: number of rows of each similarity matrix that a device holds at a time.

    Returns:
      The loss; and the share of images whose most similar text is the teacher's choice, too. The
      second has no gradient, and nothing has one by the teacher's embeddings.
    """
    layout = current_layout()
    return _loss(images, texts, scale, teacher_images, teacher_texts, chunk_size, layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _loss(images, texts, scale, teacher_images, teacher_texts, chunk_size: int, layout: Layout):
    # Without gradients, the compiler leaves out what computes them.
    arrays = images, texts, scale, teacher_images, teacher_texts
    return _run(*arrays, chunk_size=chunk_size, layout=layout)[:2]


def _forward(images, texts, scale, teacher_images, teacher_texts, chunk_size, layout: Layout):
    arrays = images, texts, scale, teacher_images, teacher_texts
    loss, agreement, *gradients = _run(*arrays, chunk_size=chunk_size, layout=layout)
    return (loss, agreement), gradients


def _backward(chunk_size: int, layout: Layout, gradients: Any, cotangents: Any):
    return *(cotangents[0] * g for g in gradients), None, None


_loss.defvjp(_forward, _backward)


def _run(*arrays: Array, chunk_size: int, layout: Layout):
    """The loss, the agreement, and the gradients of images, texts and scale."""
    rows = spec(layout.rows, ())
    on_device = functools.partial(_own_rows, chunk_size=chunk_size, layout=layout)
    inputs, outputs = (rows, rows, spec(), rows, rows), (spec(), spec(), rows, rows, spec())
    return shard_map(on_device, layout, inputs, outputs)(*arrays)


class _Rows(NamedTuple):
    """A chunk of one device's rows of both similarity matrices."""

    images: Array  # [c, e]
    teacher: Array  # [c, k]
    real: Array  # [c], False where there is no row but padding


def _own_rows(images, texts, scale, teacher_images, teacher_texts, chunk_size, layout: Layout):
    """`_run` on one device, for its own images."""
    count = len(images)
    texts, teacher_texts = (all_gather(x, layout.rows) for x in (texts, teacher_texts))
    total = len(texts)
    pieces = _Rows(*in_chunks((images, teacher_images, jnp.ones(count, bool)), chunk_size))

    def similarities(piece: _Rows) -> tuple[Array, Array]:
        """The student's, without their scale, and the teacher's [c, n]."""
        return matmul("ie,je->ij", piece.images, texts), matmul(
            "ie,je->ij", piece.teacher, teacher_texts
        )

    columns, rows = scan(
        lambda columns, piece: _normalizers(columns, piece, scale, similarities(piece)),
        (jnp.full(total, -jnp.inf, jnp.float32),) * 2,
        pieces,
    )
    columns = tuple(_over_devices(x, layout) for x in columns)

    def step(sums, inputs):
        piece, *norms = inputs
        similar, teacher = similarities(piece)
        loss, d_logits = _divergence(scale * similar, teacher, norms, columns)
        loss = jnp.sum(jnp.where(piece.real, loss, 0))
        d_logits = jnp.where(piece.real[:, None], d_logits, 0) / total
        same = (jnp.argmax(similar, axis=1) == jnp.argmax(teacher, axis=1)) & piece.real
        d_texts = scale * matmul("ij,ie->je", d_logits, piece.images)
        d_scale = jnp.sum(d_logits * similar)
        terms = loss, jnp.sum(same, dtype=jnp.int32), d_texts, d_scale
        return jax.tree.map(jnp.add, sums, terms), scale * matmul("ij,je->ie", d_logits, texts)

    start = jnp.float32(0), jnp.int32(0), jnp.zeros(texts.shape, jnp.float32), jnp.float32(0)
    sums, d_images = scan(step, start, (pieces, *rows))
    loss, same, d_scale = psum((sums[0], sums[1], sums[3]), layout.rows)
    d_texts = psum_scatter(sums[2], layout.rows)
    return loss / total, same / total, joined(d_images, count), d_texts, d_scale


def _normalizers(columns, piece: _Rows, scale, similarities):
    """log sum exp over the rows so far, of each column; and of each row of the chunk."""
    similar, teacher = similarities
    logits = scale * similar, teacher
    real = [jnp.where(piece.real[:, None], x, -jnp.inf) for x in logits]
    columns = tuple(
        jnp.logaddexp(before, jax.nn.logsumexp(x, axis=0))
        for before, x in zip(columns, real, strict=True)
    )
    return columns, tuple(jax.nn.logsumexp(x, axis=1) for x in logits)


def _over_devices(log_sum: Array, layout: Layout) -> Array:
    peak = pmax(log_sum, layout.rows)
    return peak + jnp.log(psum(jnp.exp(log_sum - peak), layout.rows))


def _divergence(logits, teacher, rows, columns):
    """Of a chunk: the divergence of each row, and its derivative by each logit."""
    loss, d_logits = 0.0, 0.0
    for student_norm, teacher_norm in (
        (rows[0][:, None], rows[1][:, None]),
        (columns[0][None], columns[1][None]),
    ):
        log_q, log_p = logits - student_norm, teacher - teacher_norm
        p = jnp.exp(log_p)
        loss += jnp.sum(p * (log_p - log_q), axis=1)
        d_logits += jnp.exp(log_q) - p
    return loss, d_logits
