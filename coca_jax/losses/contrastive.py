"""Contrastive losses over all image-text pairs of the global batch, in bounded memory.

Each device compares its own images with all texts, `chunk_size` rows of the similarity matrix at
a time. Gradients are computed with the loss, in a second pass over the matrix: those of the softmax
need the normalizers that the first one finds.

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
    psum,
    psum_scatter,
    shard_map,
    spec,
)
from coca_jax.losses.similarities import Rows, Texts, compare, similarity_gradients

CHUNK = 1024  # rows
TEMPERATURE_FLOOR = 0.01
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
        TEMPERATURE_FLOOR, "The temperature is kept at this value or above.", number(1e-6, 1e6)
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
        return with_temperature_floor(params, self.temperature_floor)


def with_temperature_floor(params: Any, floor: float) -> Any:
    """Parameters whose temperature is at least `floor`; those of a frozen one as they are."""
    if "logit_scale" not in params:
        return params
    limit = math.log(1 / floor)
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

    -(1/N) sum_i [log softmax_j(s x_i.y_j)_i + log softmax_j(s y_i.x_j)_i] (arXiv 2205.01917,
    section 3.1). With groups, the mean of the terms over all partners of the same group takes the
    place of each term of the partner itself (arXiv 2204.03610, eq. 2 and 3). Negatives are further
    texts in the first softmax, and have no term of their own (arXiv 2210.01936, section 4.1).

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
    """The loss and accuracy; with `differentiate` the inputs' gradients, too."""
    rows = spec(options.layout.rows, ())
    specs = _Inputs(rows, rows, spec(), spec(), None if inputs.negatives is None else rows)
    of_labels = _Labels(*(None if x is None else spec(options.layout.rows) for x in labels))
    on_device = functools.partial(_own_rows, options=options, gradients=differentiate)
    outputs = (spec(), spec(), *[specs] * differentiate)
    return shard_map(on_device, options.layout, (specs, of_labels), outputs)(inputs, labels)


def _all_texts(inputs: _Inputs, labels: _Labels, axes: tuple[str, ...]) -> Texts:
    texts, groups, negatives, mask = (
        None if x is None else all_gather(x, axes)
        for x in (inputs.texts, labels.groups, inputs.negatives, labels.negative_mask)
    )
    if negatives is None:
        return Texts(texts, len(texts), groups, None)
    there = jnp.concatenate([jnp.ones(len(texts), bool), mask])
    return Texts(jnp.concatenate([texts, negatives]), len(texts), groups, there)


def _own_rows(inputs: _Inputs, labels: _Labels, options: _Options, gradients: bool):
    """`_run` on one device, for its own images."""
    images, texts, scale, bias, negatives = inputs
    kind, weight, chunk_size, layout = options
    count, every = len(images), _all_texts(inputs, labels, layout.rows)
    total = every.count
    # Counted from 1 while they are cut: padding is 0.
    partners = count * axis_index(layout.rows) + jnp.arange(count, dtype=jnp.int32) + 1
    pieces = Rows(*in_chunks((images, partners, labels.groups), chunk_size))
    pieces = pieces._replace(partner=pieces.partner - 1)
    loss, hits, normalizers = compare(pieces, every, scale, bias, kind, layout)
    if labels.groups is None:
        matching = scale * jnp.sum(images * texts, axis=-1) + bias
        loss -= (1 + (kind == "softmax")) * psum(jnp.sum(matching), layout.rows)
    loss = weight * loss / total
    if not gradients:
        return loss, hits / (2 * total)
    d = similarity_gradients(pieces, every, scale, bias, normalizers, weight / total)
    d_inputs = _Inputs(
        joined(d.images, count),
        psum_scatter(d.texts[:total], layout.rows),
        psum(d.scale, layout.rows),
        psum(d.bias, layout.rows),
        None if negatives is None else psum_scatter(d.texts[total:], layout.rows),
    )
    return loss, hits / (2 * total), d_inputs
