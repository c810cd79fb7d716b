"""Contrastive losses over all image-text pairs of the global batch, in bounded memory.

Each device compares its own images with all texts, `chunk_size` rows of the similarity matrix at
a time. Gradients are computed with the loss. The sigmoid loss needs one pass over the matrix; the
softmax loss needs a second one, because the normalizers come from the first.

Optax has neither loss without the whole similarity matrix.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from coca_jax.fields import choice, field, integer, number
from coca_jax.losses.base import WEIGHT, Loss, LossAndMetrics, Values
from coca_jax.losses.collectives import (
    Layout,
    all_gather,
    axis_index,
    current_layout,
    in_chunks,
    joined,
    pmax,
    pmin,
    psum,
    psum_scatter,
    scan,
    shard_map,
    spec,
)

CHUNK = 1024  # rows
Groups = Int[Array, "n 2"]  # 64 bits, which stand for a label or a caption, as two of 32


class Negatives(NamedTuple):
    """Texts that match no image: wrong captions that the data give."""

    embeddings: Float[Array, "n e"]  # unit-length
    mask: Bool[Array, " n"]  # False: there is none


LossAndAccuracy = tuple[Float[Array, ""], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class ContrastiveLoss(Loss):
    """Each image against all texts of the batch, and each text against all images.

    With `group` in the batch, every image of a group matches every text of it. With wrong captions
    in the batch, each image is compared with all of these, too (NegCLIP, arXiv 2210.01936): they
    cost one more pass of the text half, and rows of the similarity matrix of twice the length.
    """

    weight: float = field(1.0, WEIGHT, number())
    kind: str = field("softmax", "softmax or, as in SigLIP, sigmoid.", choice("softmax", "sigmoid"))
    reduction: str = field(
        "sum",
        "Of the softmax loss's two directions: their sum (CoCa's paper) or mean (CLIP).",
        choice("sum", "mean"),
    )
    initial_temperature: float = field(
        0.07, "Trained from this value; SigLIP starts at 0.1.", number(1e-6, 1e6)
    )
    temperature_floor: float = field(
        0.01, "The temperature is kept at this value or above.", number(1e-6, 1e6)
    )
    chunk_size: int = field(
        CHUNK, "Rows of the similarity matrix that a device holds.", integer(1), resumable=True
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Both embeddings and the scale; the sigmoid loss has a bias, too."""
        bias = ("logit_bias",) if self.kind == "sigmoid" else ()
        return "image_embeddings", "text_embeddings", "logit_scale", *bias

    @property
    def reads_if_there(self) -> tuple[str, ...]:
        """The embeddings of wrong captions."""
        return ("negative_embeddings",)

    @property
    def whole_batch(self) -> bool:
        """Always: every image is compared with every text."""
        return True

    def __call__(self, output: Any, batch: Values) -> LossAndMetrics:
        """The loss per pair, the share of partners that are the most similar, the temperature."""
        images, texts, scale = output.image_embeddings, output.text_embeddings, output.logit_scale
        options = {"chunk_size": self.chunk_size, "groups": batch.get("group")}
        metrics = {"temperature": 1 / scale}
        if (negatives := output.negative_embeddings) is not None:
            mask = batch["negative_mask"]
            options["negatives"] = Negatives(negatives, mask)
            metrics["negative_share"] = jnp.mean(mask, dtype=jnp.float32)
        if self.kind == "sigmoid":
            loss, accuracy = sigmoid_loss(images, texts, scale, output.logit_bias, **options)
        else:
            loss, accuracy = softmax_loss(images, texts, scale, self.reduction, **options)
        return loss, {"contrastive_accuracy": accuracy} | metrics

    def constrain(self, params: Any) -> Any:
        """Projects the temperature back to at least its floor, as CLIP does."""
        if "logit_scale" not in params:  # it is frozen
            return params
        limit = math.log(1 / self.temperature_floor)
        return params | {"logit_scale": jnp.minimum(params["logit_scale"], limit)}


def softmax_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    reduction: str = "sum",
    chunk_size: int = CHUNK,
    groups: Groups | None = None,
    negatives: Negatives | None = None,
) -> LossAndAccuracy:
    """Cross-entropy of each image among all texts, and of each text among all images.

    -(1/N) sum_i [log softmax_j(s x_i.y_j)_i + log softmax_j(s y_i.x_j)_i], arXiv 2205.01917, eq. 4.
    With groups, the mean of the terms over all partners of the same group takes the place of each
    term of the partner itself (arXiv 2204.03610, eq. 2 and 3). Negatives are further texts in the
    first softmax, and have no term of their own (arXiv 2210.01936, section 4.1).

    Args:
      images: unit-length embeddings; row i matches row i of `texts`.
      texts: unit-length embeddings.
      scale: 1 / temperature, above 0.
      reduction: `sum` of both directions as in the paper, or their `mean` as in CLIP.
      chunk_size: number of rows of the similarity matrix that a device holds at a time.
      groups: every image of a group matches every text of it; None: each only its own.
      negatives: texts that match no image.

    Returns:
      The loss; and the share of the batch whose most similar partner of all is one that matches,
      mean of both directions, which has no gradient.
    """
    options = _Options("softmax", 1.0 if reduction == "sum" else 0.5, chunk_size, current_layout())
    return _loss(_inputs(images, texts, scale, 0, negatives), _labels(groups, negatives), options)


def sigmoid_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    chunk_size: int = CHUNK,
    groups: Groups | None = None,
    negatives: Negatives | None = None,
) -> LossAndAccuracy:
    """Binary cross-entropy of every pair, summed over pairs and divided by N (arXiv 2303.15343).

    -(1/N) sum_ij log sigmoid(z_ij (s x_i.y_j + b)), with z_ij = 1 where image i matches text j, on
    the diagonal or within a group, and -1 elsewhere; negatives are further texts of the sum.
    Arguments and results are those of `softmax_loss`.
    """
    options = _Options("sigmoid", 1.0, chunk_size, current_layout())
    return _loss(
        _inputs(images, texts, scale, bias, negatives), _labels(groups, negatives), options
    )


class _Inputs(NamedTuple):
    """The arrays that have a gradient."""

    images: Array  # [n, e]
    texts: Array  # [n, e]
    scale: Array
    bias: Array
    negatives: Array | None  # [n, e]


class _Labels(NamedTuple):
    """The arrays that have none."""

    groups: Array | None  # [n, 2]
    negative_mask: Array | None  # [n]


class _Options(NamedTuple):
    """What is known when the program is traced."""

    kind: str
    weight: float
    chunk_size: int
    layout: Layout


def _inputs(images, texts, scale, bias, negatives: Negatives | None) -> _Inputs:
    embeddings = None if negatives is None else negatives.embeddings
    return _Inputs(images, texts, scale, jnp.float32(bias), embeddings)


def _labels(groups: Groups | None, negatives: Negatives | None) -> _Labels:
    return _Labels(groups, None if negatives is None else negatives.mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _loss(inputs: _Inputs, labels: _Labels, options: _Options):
    return _run(inputs, labels, options, False)


def _forward(inputs: _Inputs, labels: _Labels, options: _Options):
    loss, accuracy, gradients = _run(inputs, labels, options, True)
    return (loss, accuracy), gradients


def _backward(options: _Options, gradients: _Inputs, cotangents: Any):
    return jax.tree.map(lambda g: cotangents[0] * g, gradients), None  # labels have no gradient


_loss.defvjp(_forward, _backward)


def _run(inputs: _Inputs, labels: _Labels, options: _Options, differentiate: bool):
    """The loss and accuracy; with `differentiate` its gradients by the inputs, too."""
    rows = spec(options.layout.rows, ())
    specs = _Inputs(rows, rows, spec(), spec(), None if inputs.negatives is None else rows)
    of_labels = _Labels(*(None if x is None else spec(options.layout.rows) for x in labels))
    on_device = functools.partial(_own_rows, options=options, gradients=differentiate)
    outputs = (spec(), spec(), *[specs] * differentiate)
    return shard_map(on_device, options.layout, (specs, of_labels), outputs)(inputs, labels)


class _Rows(NamedTuple):
    """A chunk of one device's rows of the similarity matrix."""

    images: Array  # [c, e]
    partner: Array  # [c], the column of its own text; -1 where there is no row but padding
    group: Array | None  # [c, 2]; None: only its own text matches


class _Columns(NamedTuple):
    """Statistics of each text over the images that it was compared with so far."""

    peak: Array  # [n], its largest similarity
    first: Array  # [n], the first image that has it
    norm: Array  # [n], sum of exp(scale (similarity - peak))


class _Texts(NamedTuple):
    """All texts of the batch, the columns of the similarity matrix; negatives are the last ones."""

    embeddings: Array  # [m, e]
    count: int  # those that are no negatives
    group: Array | None  # [count, 2]
    there: Array | None  # [m], False where a column is no text; None: all are

    def matches(self, rows: _Rows, softmax: bool) -> Array:
        """The target of each pair [c, count]: 1 where they match; softmax: 1 over their number."""
        if rows.group is None:
            columns = jnp.arange(self.count, dtype=jnp.int32)
            return (columns[None] == rows.partner[:, None]).astype(jnp.float32)
        equal = jnp.all(rows.group[:, None] == self.group[None], axis=-1).astype(jnp.float32)
        return equal / jnp.sum(equal, axis=1, keepdims=True) if softmax else equal

    def masked(self, values: Array, absent: float) -> Array:
        """Values [c, m] of pairs, with another where a column is no text."""
        return values if self.there is None else jnp.where(self.there[None], values, absent)

    def widened(self, values: Array) -> Array:
        """Values [c, count] of pairs, with 0 for negatives [c, m]."""
        more = len(self.embeddings) - self.count
        return jnp.pad(values, ((0, 0), (0, more))) if more else values


def _all_texts(inputs: _Inputs, labels: _Labels, axes: tuple[str, ...]) -> _Texts:
    texts, groups, negatives, mask = (
        None if x is None else all_gather(x, axes)
        for x in (inputs.texts, labels.groups, inputs.negatives, labels.negative_mask)
    )
    if negatives is None:
        return _Texts(texts, len(texts), groups, None)
    there = jnp.concatenate([jnp.ones(len(texts), bool), mask])
    return _Texts(jnp.concatenate([texts, negatives]), len(texts), groups, there)


def _own_rows(inputs: _Inputs, labels: _Labels, options: _Options, gradients: bool):
    """`_run` on one device, for its own images."""
    images, texts, scale, bias, negatives = inputs
    kind, weight, chunk_size, layout = options
    count, every = len(images), _all_texts(inputs, labels, layout.rows)
    total = every.count
    # Counted from 1 while they are cut: padding is 0.
    partners = count * axis_index(layout.rows) + jnp.arange(count, dtype=jnp.int32) + 1
    pieces = _Rows(*in_chunks((images, partners, labels.groups), chunk_size))
    pieces = pieces._replace(partner=pieces.partner - 1)
    loss, hits, normalizers = _compare(pieces, every, scale, bias, kind, layout)
    if labels.groups is None:
        matching = scale * jnp.sum(images * texts, axis=-1) + bias
        loss -= (1 + (kind == "softmax")) * psum(jnp.sum(matching), layout.rows)
    loss = weight * loss / total
    if not gradients:
        return loss, hits / (2 * total)
    sums, by_image = _slopes(pieces, every, scale, bias, normalizers, weight / total)
    by_text, by_scale, by_bias = sums
    slopes = _Inputs(
        joined(by_image, count),
        psum_scatter(by_text[:total], layout.rows),
        psum(by_scale, layout.rows),
        psum(by_bias, layout.rows),
        None if negatives is None else psum_scatter(by_text[total:], layout.rows),
    )
    return loss, hits / (2 * total), slopes


def _compare(rows: _Rows, texts: _Texts, scale, bias, kind: str, layout: Layout):
    """The first pass: the sum of the loss, hits, and for the softmax its normalizers.

    The normalizers are log sum exp over all texts of each row [chunks, c], and over all images of
    each text. Without groups, the matches are not in the sum yet: they need no similarity matrix.
    """
    softmax, count = kind == "softmax", texts.count
    columns = jnp.arange(len(texts.embeddings), dtype=jnp.int32)

    def step(carry, piece: _Rows):
        loss, hits, stats = carry
        real = piece.partner >= 0
        similar = _matmul("ie,je->ij", piece.images, texts.embeddings)
        similar = texts.masked(similar, -jnp.inf)
        peak = jnp.max(similar, axis=1)
        first = jnp.min(jnp.where(similar == peak[:, None], columns[None], len(columns)), axis=1)
        hits += jnp.sum(real & _same(piece, first, texts), dtype=jnp.int32)
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

    unknown = _Columns(
        peak=jnp.full(count, -jnp.inf, jnp.float32),
        first=jnp.full(count, count, jnp.int32),
        norm=jnp.zeros(count, jnp.float32),
    )
    start = jnp.float32(0), jnp.int32(0), unknown
    (loss, hits, stats), nats = scan(step, start, rows)
    loss, hits = psum((loss, hits), layout.rows)
    peak = pmax(stats.peak, layout.rows)
    first = pmin(jnp.where(stats.peak == peak, stats.first, count), layout.rows)
    groups = texts.group
    is_hit = (
        first == columns[:count] if groups is None else jnp.all(groups[first] == groups, axis=-1)
    )
    hits += jnp.sum(is_hit, dtype=jnp.int32)
    if not softmax:
        return loss, hits, None
    norm = psum(stats.norm * jnp.exp(scale * (stats.peak - peak)), layout.rows)
    of_texts = scale * peak + jnp.log(norm)
    return loss + jnp.sum(of_texts), hits, (nats, of_texts)


def _same(rows: _Rows, column: Array, texts: _Texts) -> Array:
    """Whether each row matches the text of its column [c]."""
    if rows.group is None:
        return column == rows.partner
    return (column < texts.count) & jnp.all(texts.group[column] == rows.group, axis=-1)


def _with_rows(stats: _Columns, similar, partner, scale, softmax: bool) -> _Columns:
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
    return _Columns(peak, jnp.where(here > stats.peak, first, stats.first), norm)


def _slopes(rows: _Rows, texts: _Texts, scale, bias, normalizers, factor: float):
    """The second pass: this device's share of the gradients.

    Args:
      rows: of this device, in chunks.
      texts: all of them.
      scale: of the similarities.
      bias: added to them.
      normalizers: from `_compare`.
      factor: of the sum over pairs.

    Returns:
      Those by texts, scale and bias, to be added up over devices; and by images [chunks, c, e].
    """
    softmax = normalizers is not None

    def step(sums, piece):
        piece, nats = piece
        similar = _matmul("ie,je->ij", piece.images, texts.embeddings)
        if softmax:
            logits = scale * similar
            of_texts = jnp.exp(logits[:, : texts.count] - normalizers[1][None])
            by_logits = jnp.exp(logits - nats[:, None]) + texts.widened(of_texts)
        else:
            by_logits = jax.nn.sigmoid(scale * similar + bias)
        by_logits -= (1 + softmax) * texts.widened(texts.matches(piece, softmax))
        by_logits = texts.masked(jnp.where(piece.partner[:, None] < 0, 0, by_logits), 0.0) * factor
        by_text = scale * _matmul("ij,ie->je", by_logits, piece.images)
        by_scale = jnp.sum(jnp.sum(by_logits * similar, axis=1))
        by_bias = jnp.sum(jnp.sum(by_logits, axis=1))
        sums = jax.tree.map(jnp.add, sums, (by_text, by_scale, by_bias))
        return sums, scale * _matmul("ij,je->ie", by_logits, texts.embeddings)

    start = jnp.zeros(texts.embeddings.shape, jnp.float32), jnp.float32(0), jnp.float32(0)
    return scan(step, start, (rows, normalizers and normalizers[0]))


def _matmul(terms: str, a: Array, b: Array) -> Array:
    """In full float32."""
    return jnp.einsum(terms, a, b, precision=jax.lax.Precision.HIGHEST)
