"""The matrix of similarities of images and texts, a few rows at a time: what losses need of it.

Rows are images of one device, columns are all texts of the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from coca_jax.losses.collectives import Layout, pmax, pmin, psum, scan


class Rows(NamedTuple):
    """A chunk of one device's rows of the similarity matrix."""

    images: Float[Array, "*chunks c e"]
    partner: Int[Array, "*chunks c"]  # the column of its own text; -1 where there is only padding
    group: Int[Array, "*chunks c 2"] | None  # None: only its own text matches


class Columns(NamedTuple):
    """Statistics of each text over the images that it was compared with so far."""

    peak: Float[Array, " n"]  # its largest similarity
    first: Int[Array, " n"]  # the first image that has it
    norm: Float[Array, " n"]  # sum of exp(scale (similarity - peak))


class Normalizers(NamedTuple):
    """Of the softmax: the logarithms of sums of exponentials."""

    images: Float[Array, "chunks c"]  # over all texts
    texts: Float[Array, " n"]  # over all images


class Texts(NamedTuple):
    """All texts of the batch, the columns of the similarity matrix; negatives are the last ones."""

    embeddings: Float[Array, "m e"]
    count: int  # those that are not negatives
    group: Int[Array, "n 2"] | None
    there: Bool[Array, " m"] | None  # False where a column has no text; None: all have one

    def matches(self, rows: Rows, softmax: bool) -> Float[Array, "c n"]:
        """The target of each pair: 1 where they match; with softmax, 1 over their number."""
        if rows.group is None:
            columns = jnp.arange(self.count, dtype=jnp.int32)
            return (columns[None] == rows.partner[:, None]).astype(jnp.float32)
        equal = jnp.all(rows.group[:, None] == self.group[None], axis=-1).astype(jnp.float32)
        return equal / jnp.sum(equal, axis=1, keepdims=True) if softmax else equal

    def masked(self, values: Float[Array, "c m"], absent: float) -> Float[Array, "c m"]:
        """Values of pairs, with another one where a column has no text."""
        return values if self.there is None else jnp.where(self.there[None], values, absent)

    def widened(self, values: Float[Array, "c n"]) -> Float[Array, "c m"]:
        """Values of pairs, with 0 for negatives."""
        more = len(self.embeddings) - self.count
        return jnp.pad(values, ((0, 0), (0, more))) if more else values


def compare(
    rows: Rows,
    texts: Texts,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    kind: str,
    layout: Layout,
) -> tuple[Float[Array, ""], Int[Array, ""], Normalizers | None]:
    """The first pass: the sum of the loss, hits, and for the softmax its normalizers.

    A running maximum keeps the sums of exponentials finite (online softmax, arXiv 1805.02867).
    Without groups, the matches are not in the sum yet: they need no similarity matrix.

    Args:
      rows: of this device, in chunks.
      texts: all of them.
      scale: what similarities are multiplied by.
      bias: added to them.
      kind: softmax or sigmoid.
      layout: of the rows over devices.
    """
    softmax, count = kind == "softmax", texts.count

    def step(carry, piece: Rows):
        loss, hits, stats = carry
        real = piece.partner >= 0
        similar = matmul("ie,je->ij", piece.images, texts.embeddings)
        similar = texts.masked(similar, -jnp.inf)
        peak = jnp.max(similar, axis=1)
        hits += jnp.sum(real & _same(piece, _first(similar, peak), texts), dtype=jnp.int32)
        if softmax:
            norm = jnp.sum(jnp.exp(scale * (similar - peak[:, None])), axis=1)
            nats = scale * peak + jnp.log(norm)
        else:
            nats = jnp.sum(jax.nn.softplus(scale * similar + bias), axis=1)
        matching = 0.0
        if piece.group is not None:
            targets = texts.matches(piece, softmax)
            logits = scale * similar[:, :count] + bias
            matching = (1 + softmax) * jnp.sum(targets * logits, axis=1)
        loss += jnp.sum(jnp.where(real, nats - matching, 0))
        stats = _with_rows(stats, similar[:, :count], piece.partner, scale, softmax)
        return (loss, hits, stats), nats if softmax else None

    unknown = Columns(
        peak=jnp.full(count, -jnp.inf, jnp.float32),
        first=jnp.full(count, count, jnp.int32),
        norm=jnp.zeros(count, jnp.float32),
    )
    (loss, hits, stats), nats = scan(step, (jnp.float32(0), jnp.int32(0), unknown), rows)
    loss, hits = psum((loss, hits), layout.rows)
    stats = _of_all_devices(stats, scale, layout)
    hits += jnp.sum(_are_hits(stats.first, texts), dtype=jnp.int32)
    if not softmax:
        return loss, hits, None
    of_texts = scale * stats.peak + jnp.log(stats.norm)
    return loss + jnp.sum(of_texts), hits, Normalizers(nats, of_texts)


def _first(similar: Float[Array, "c m"], peak: Float[Array, " c"]) -> Int[Array, " c"]:
    """The first column that has the largest similarity of each row."""
    count = similar.shape[1]
    columns = jnp.arange(count, dtype=jnp.int32)
    return jnp.min(jnp.where(similar == peak[:, None], columns[None], count), axis=1)


def _of_all_devices(stats: Columns, scale: Float[Array, ""], layout: Layout) -> Columns:
    """The statistics of the columns over the images of all devices."""
    peak = pmax(stats.peak, layout.rows)
    first = pmin(jnp.where(stats.peak == peak, stats.first, len(peak)), layout.rows)
    norm = psum(stats.norm * jnp.exp(scale * (stats.peak - peak)), layout.rows)
    return Columns(peak, first, norm)


def _are_hits(first: Int[Array, " n"], texts: Texts) -> Bool[Array, " n"]:
    """Whether the image that is the most similar to each text matches it."""
    if texts.group is None:
        return first == jnp.arange(texts.count, dtype=jnp.int32)
    return jnp.all(texts.group[first] == texts.group, axis=-1)


def _same(rows: Rows, column: Array, texts: Texts) -> Array:
    """Whether each row matches the text of its column [c]."""
    if rows.group is None:
        return column == rows.partner
    return (column < texts.count) & jnp.all(texts.group[column] == rows.group, axis=-1)


def _with_rows(stats: Columns, similar, partner, scale, softmax: bool) -> Columns:
    """The statistics of the columns with a chunk's rows added."""
    similar = jnp.where(partner[:, None] < 0, -jnp.inf, similar)
    here = jnp.max(similar, axis=0)
    missing = len(similar[0])
    first = jnp.min(jnp.where(similar == here[None], partner[:, None], missing), axis=0)
    peak = jnp.maximum(stats.peak, here)
    norm = stats.norm
    if softmax:
        norm = norm * jnp.exp(scale * (stats.peak - peak))
        norm += jnp.sum(jnp.exp(scale * (similar - peak[None])), axis=0)
    return Columns(peak, jnp.where(here > stats.peak, first, stats.first), norm)


class Gradients(NamedTuple):
    """This device's share of the gradients; all but the images' are to be added up over devices."""

    images: Float[Array, "chunks c e"]
    texts: Float[Array, "m e"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]


def similarity_gradients(
    rows: Rows,
    texts: Texts,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    normalizers: Normalizers | None,
    factor: float,
) -> Gradients:
    """The second pass: the gradients of `factor` times the sum over pairs.

    Args:
      rows: of this device, in chunks.
      texts: all of them.
      scale: what similarities are multiplied by.
      bias: added to them.
      normalizers: from `compare`; None: of the sigmoid.
      factor: of the sum over pairs.
    """
    softmax = normalizers is not None

    def step(sums, piece):
        piece, nats = piece
        similar = matmul("ie,je->ij", piece.images, texts.embeddings)
        if softmax:
            logits = scale * similar
            of_texts = jnp.exp(logits[:, : texts.count] - normalizers.texts[None])
            d_logits = jnp.exp(logits - nats[:, None]) + texts.widened(of_texts)
        else:
            d_logits = jax.nn.sigmoid(scale * similar + bias)
        d_logits -= (1 + softmax) * texts.widened(texts.matches(piece, softmax))
        d_logits = texts.masked(jnp.where(piece.partner[:, None] < 0, 0, d_logits), 0.0) * factor
        d_texts = scale * matmul("ij,ie->je", d_logits, piece.images)
        d_scale = jnp.sum(jnp.sum(d_logits * similar, axis=1))
        d_bias = jnp.sum(jnp.sum(d_logits, axis=1))
        sums = jax.tree.map(jnp.add, sums, (d_texts, d_scale, d_bias))
        return sums, scale * matmul("ij,je->ie", d_logits, texts.embeddings)

    start = jnp.zeros(texts.embeddings.shape, jnp.float32), jnp.float32(0), jnp.float32(0)
    of_images = normalizers.images if softmax else None
    sums, d_images = scan(step, start, (rows, of_images))
    return Gradients(d_images, *sums)


def matmul(terms: str, a: Float[Array, "_ _"], b: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    """The einsum of two arrays, in full float32."""
    return jnp.einsum(terms, a, b, precision=jax.lax.Precision.HIGHEST)
