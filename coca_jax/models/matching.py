"""Hard negatives of image-text matching: the most similar wrong pairs of a block of examples.

As in ALBEF (arXiv 2107.07651, section 3.2) and BLIP (arXiv 2201.12086): for each image a text of
another example, for each text an image of another, drawn in proportion to the exponential of their
similarity. ALBEF draws among the examples of a device. Here they are drawn within blocks of
consecutive examples of the global batch, so that the mesh and the number of micro-batches change
nothing, and no device needs what another holds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


class Texts(NamedTuple):
    """Texts with their features from the unimodal half; None: there are none."""

    features: Float[Array, "b t d"] | None
    ids: Int[Array, "b t"] | None


class WrongPairs(NamedTuple):
    """Texts and images that do not belong together; the m pairs of an example in a row."""

    features: Float[Array, "b*m t d"]  # of the texts
    ids: Int[Array, "b*m t"]
    context: Float[Array, "b*m n c"]  # of the images
    exist: Bool[Array, "b m"]  # False where an example lacks a pair of that kind


class HardNegatives(NamedTuple):
    """For each example, the one within its block whose text, and whose image, is drawn."""

    text: Int[Array, "blocks g"]
    image: Int[Array, "blocks g"]
    exist: Bool[Array, "b two"]  # False where all examples of the block have the same text


def make_draws(
    batch: Mapping[str, Any], block_size: int, key: Any = None
) -> Float[Array, "rows two g"]:
    """What is added to the logits of a draw: noise, or -inf where the pair is a right one.

    Args:
      batch: `text` [b, t], and `group` [b, 2] if there are groups. Examples whose texts are equal,
        or that are of one group, are not negatives of each other.
      block_size: examples of a block; the last one is filled up.
      key: of the random values; None: the most similar ones are taken.

    Returns:
      For each example (with those that fill up the last block) and each example of its block the
      noise of the draw of a text, and of an image. It is Gumbel noise: the argmax of logits plus
      noise is a sample of their softmax (the Gumbel-max trick, arXiv 1611.01144, section 2.1).
    """
    same = _equal_in_block(batch["text"], block_size)
    if "group" in batch:
        same |= _equal_in_block(batch["group"], block_size)
    there = in_blocks(jnp.ones(len(batch["text"]), bool), block_size)
    wrong = (~same & there[:, None]).reshape(-1, 1, block_size)
    shape = (len(wrong), 2, block_size)
    noise = jnp.zeros(shape) if key is None else jax.random.gumbel(key, shape)
    return jnp.where(wrong, noise.astype(jnp.float32), -jnp.inf)


def hard_negatives(
    images: Float[Array, "b e"],
    texts: Float[Array, "b e"],
    scale: Float[Array, ""],
    draws: Float[Array, "rows two g"],
) -> HardNegatives:
    """Draws the negatives of each example by its similarities, which get no gradient.

    Args:
      images: unit-length embeddings.
      texts: unit-length embeddings.
      scale: 1 / temperature.
      draws: of `make_draws`.
    """
    size = draws.shape[-1]
    x, y = (in_blocks(jax.lax.stop_gradient(z), size) for z in (images, texts))
    logits = jnp.einsum("kie,kje->kij", x, y) * jax.lax.stop_gradient(scale)
    noise = draws.reshape(-1, size, 2, size)
    text = jnp.argmax(logits + noise[:, :, 0], axis=-1)
    image = jnp.argmax(logits.swapaxes(1, 2) + noise[:, :, 1], axis=-1)
    return HardNegatives(text, image, jnp.any(draws > -jnp.inf, axis=-1)[: len(images)])


def wrong_pairs(
    output: Any,
    texts: Texts,
    wrong: Texts,
    context: Float[Array, "b n c"],
    draws: Float[Array, "rows two g"],
    pad_id: int,
) -> WrongPairs:
    """The pairs that a matching head should tell from the right ones.

    Args:
      output: has both embeddings and the scale.
      texts: of the right pairs.
      wrong: captions that the data give; None and None: there are none.
      context: of the images.
      draws: of `make_draws`.
      pad_id: of texts; one of nothing else does not exist.
    """
    embeddings = output.image_embeddings, output.text_embeddings
    drawn = hard_negatives(*embeddings, output.logit_scale, draws)
    pairs = [
        (taken(texts.features, drawn.text), taken(texts.ids, drawn.text), context),
        (texts.features, texts.ids, taken(context, drawn.image)),
    ]
    exist = drawn.exist
    if wrong.ids is not None:
        pairs.append((wrong.features, wrong.ids, context))
        given = jnp.any(wrong.ids != pad_id, axis=1, keepdims=True)
        exist = jnp.concatenate([exist, given], axis=1)
    # Those of an example lie next to each other, so that no row moves between devices.
    stacked = (jnp.stack(parts, axis=1) for parts in zip(*pairs, strict=True))
    return WrongPairs(*(x.reshape(-1, *x.shape[2:]) for x in stacked), exist)


def end_of_text(
    features: Float[Array, "b t d"], ids: Int[Array, "b t"], pad_id: int
) -> Float[Array, "b d"]:
    """The features of each text's last token, which has seen all of it, in float32."""
    # A text may hold the id of padding: of CLIP's tokenizer it is also that of a "!".
    places = jnp.where(ids != pad_id, jnp.arange(ids.shape[1], dtype=jnp.int32), 0)
    last = jnp.max(places, axis=1)[:, None, None]
    return jnp.take_along_axis(features, last, axis=1)[:, 0].astype(jnp.float32)


def in_blocks(x: Shaped[Array, "b *rest"], size: int) -> Shaped[Array, "blocks g *rest"]:
    """Rows in blocks of `size`; zeros fill up the last one."""
    missing = -len(x) % size
    if missing:
        x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, size, *x.shape[1:])


def taken(x: Shaped[Array, "b *rest"], chosen: Int[Array, "blocks g"]) -> Shaped[Array, "b *rest"]:
    """The rows of the chosen examples, each within its own block."""
    rows = jax.vmap(lambda block, index: block[index])(in_blocks(x, chosen.shape[1]), chosen)
    return rows.reshape(-1, *x.shape[1:])[: len(x)]


def _equal_in_block(x: Array, size: int) -> Bool[Array, "blocks g g"]:
    blocks = in_blocks(x, size)
    return jnp.all(blocks[:, :, None] == blocks[:, None], axis=-1)
