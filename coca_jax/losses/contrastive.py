"""Contrastive losses over all image-text pairs of the global batch, in bounded memory.

Each device takes its own images against all texts, `chunk` rows of the similarity matrix at a time.
Gradients are made with the loss. The sigmoid loss needs one pass over the matrix; the softmax needs
a second one, for what a pair weighs among all images is known only after the first.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from coca_jax.losses.spread import (
    Layout,
    current_layout,
    gathered,
    in_chunks,
    joined,
    largest,
    on_each_device,
    over_chunks,
    place,
    smallest,
    split,
    total,
    total_of_own,
)

CHUNK = 1024  # rows
LossAndAccuracy = tuple[Float[Array, ""], Float[Array, ""]]


def softmax_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    reduction: str = "sum",
    chunk: int = CHUNK,
) -> LossAndAccuracy:
    """Cross-entropy of each image among all texts, and of each text among all images.

    -(1/N) sum_i [log softmax_j(s x_i.y_j)_i + log softmax_j(s y_i.x_j)_i], arXiv 2205.01917, eq. 4.

    Args:
      images: unit-length embeddings; row i belongs with row i of `texts`.
      texts: unit-length embeddings.
      scale: 1 / temperature, above 0.
      reduction: `sum` of both directions as in the paper, or their `mean` as in CLIP.
      chunk: so many rows of the similarity matrix are held by a device at a time.

    Returns:
      The loss; and the share of the batch whose partner is the most similar of all, mean of both
      directions, which has no gradient.
    """
    weight = 1.0 if reduction == "sum" else 0.5
    return _loss(images, texts, scale, jnp.zeros(()), "softmax", weight, chunk, current_layout())


def sigmoid_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    chunk: int = CHUNK,
) -> LossAndAccuracy:
    """Binary cross-entropy of every pair, summed over pairs and divided by N (arXiv 2303.15343).

    -(1/N) sum_ij log sigmoid(z_ij (s x_i.y_j + b)), with z_ij = 1 on the diagonal and -1 elsewhere.
    Arguments and results are those of `softmax_loss`.
    """
    return _loss(images, texts, scale, bias, "sigmoid", 1.0, chunk, current_layout())


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _loss(images, texts, scale, bias, kind: str, weight: float, chunk: int, layout: Layout):
    return _run(images, texts, scale, bias, kind, weight, chunk, layout, False)


def _forward(images, texts, scale, bias, kind: str, weight: float, chunk: int, layout: Layout):
    loss, accuracy, *gradients = _run(images, texts, scale, bias, kind, weight, chunk, layout, True)
    return (loss, accuracy), gradients


def _backward(kind, weight, chunk, layout, gradients: Any, cotangents: Any):
    return tuple(cotangents[0] * g for g in gradients)


_loss.defvjp(_forward, _backward)


def _run(images, texts, scale, bias, kind, weight, chunk, layout: Layout, differentiate: bool):
    """Loss and accuracy, and if asked for the loss's gradients by each of the four arrays."""
    specs = (split(layout.rows, ()), split(layout.rows, ()), split(), split())
    on_device = functools.partial(
        _own_rows, kind=kind, weight=weight, chunk=chunk, layout=layout, gradients=differentiate
    )
    outputs = (split(), split(), *specs[: 4 * differentiate])
    return on_each_device(on_device, layout, specs, outputs)(images, texts, scale, bias)


class _Rows(NamedTuple):
    """A chunk of one device's rows of the similarity matrix."""

    images: Array  # [c, e]
    own: Array  # [c], the column of the partner; -1 where there is no row but padding


class _Columns(NamedTuple):
    """What is known of each text so far, from the images that it was compared with."""

    peak: Array  # [n], its largest similarity
    first: Array  # [n], the first image that has it
    norm: Array  # [n], sum of exp(scale (similarity - peak))


def _own_rows(images, texts, scale, bias, kind, weight, chunk, layout: Layout, gradients: bool):
    """What `_run` does, of one device's images."""
    every = gathered(texts, layout.rows)
    own = len(images) * place(layout.rows) + jnp.arange(len(images))
    # Partners are counted from 1 while rows are cut, whose padding is 0.
    cut, numbers = in_chunks((images, own + 1), chunk)
    pieces = _Rows(cut, numbers - 1)
    loss, hits, rows, columns = _compare(pieces, every, scale, bias, kind, layout)
    matching = total(jnp.sum(scale * jnp.sum(images * texts, axis=-1) + bias), layout.rows)
    loss = weight * (loss - (2 if kind == "softmax" else 1) * matching) / len(every)
    accuracy = hits / (2 * len(every))
    if not gradients:
        return loss, accuracy
    factor = weight / len(every)

    def step(sums, piece):
        similar, (chunk_rows, normalizer) = _similar(piece[0], every), piece
        if kind == "softmax":
            logits = scale * similar
            slope = jnp.exp(logits - normalizer[:, None]) + jnp.exp(logits - columns)
        else:
            slope = jax.nn.sigmoid(scale * similar + bias)
        matches = jnp.arange(len(every)) == chunk_rows.own[:, None]
        slope = slope - (2 if kind == "softmax" else 1) * matches
        slope = jnp.where(chunk_rows.own[:, None] < 0, 0, factor * slope)
        by_text = scale * _product("ij,ie->je", slope, chunk_rows.images)
        by_scale, by_bias = jnp.sum(jnp.sum(slope * similar, 1)), jnp.sum(jnp.sum(slope, 1))
        sums = jax.tree.map(jnp.add, sums, (by_text, by_scale, by_bias))
        return sums, scale * _product("ij,je->ie", slope, every)

    start = jnp.zeros(every.shape), jnp.zeros(()), jnp.zeros(())
    (by_text, *scalars), by_image = over_chunks(step, start, (pieces, rows))
    by_image = joined(by_image, len(images))
    return (
        loss,
        accuracy,
        by_image,
        total_of_own(by_text, layout.rows),
        *total(scalars, layout.rows),
    )


def _compare(pieces: _Rows, every, scale, bias, kind: str, layout: Layout):
    """One pass over the rows: what the loss is without its matching pairs, and who finds whom.

    Returns:
      The sum over all rows and columns (softmax) or pairs (sigmoid); how many of both have their
      partner as the most similar; and log-sum-exps: of each row of each piece, of each column.
    """

    def step(carry, rows: _Rows):
        (loss, hits), columns = carry
        similar, real = _similar(rows, every), rows.own >= 0
        hits += jnp.sum(real & (jnp.argmax(similar, axis=1) == rows.own))
        if kind == "softmax":
            normalizer = jax.nn.logsumexp(scale * similar, axis=1)
            loss += jnp.sum(jnp.where(real, normalizer, 0))
        else:
            normalizer = jnp.zeros(len(real))
            loss += jnp.sum(jnp.where(real[:, None], jax.nn.softplus(scale * similar + bias), 0))
        similar = jnp.where(real[:, None], similar, -jnp.inf)
        return ((loss, hits), _with_rows(columns, similar, rows.own, scale)), normalizer

    count = len(every)
    nothing = _Columns(
        jnp.full(count, -jnp.inf), jnp.full(count, count, jnp.int32), jnp.zeros(count)
    )
    start = (jnp.zeros(()), jnp.zeros((), jnp.int32)), nothing
    (sums, columns), normalizers = over_chunks(step, start, pieces)
    (loss, hits), columns = total(sums, layout.rows), _of_all_devices(columns, scale, layout)
    hits += jnp.sum(columns.first == jnp.arange(count))
    of_columns = scale * columns.peak + jnp.log(columns.norm)
    loss += jnp.sum(of_columns) if kind == "softmax" else 0
    return loss, hits, normalizers, of_columns


def _with_rows(columns: _Columns, similar, own, scale) -> _Columns:
    """What is known of the columns with a further chunk of rows; padding is -inf in `similar`."""
    peak = jnp.maximum(columns.peak, jnp.max(similar, axis=0))
    found = own[jnp.argmax(similar, axis=0)]
    first = jnp.where(peak > columns.peak, found, columns.first)
    norm = columns.norm * jnp.exp(scale * (columns.peak - peak))
    return _Columns(peak, first, norm + jnp.sum(jnp.exp(scale * (similar - peak)), axis=0))


def _of_all_devices(columns: _Columns, scale, layout: Layout) -> _Columns:
    peak = largest(columns.peak, layout.rows)
    first = jnp.where(columns.peak == peak, columns.first, len(peak))
    norm = columns.norm * jnp.exp(scale * (columns.peak - peak))
    return _Columns(peak, smallest(first, layout.rows), total(norm, layout.rows))


def _similar(rows: _Rows, every) -> Array:
    return _product("ie,je->ij", rows.images, every)


def _product(dimensions: str, a, b) -> Array:
    """In full float32, which accelerators do not use by default."""
    return jnp.einsum(dimensions, a, b, precision=jax.lax.Precision.HIGHEST)
