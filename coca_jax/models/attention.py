"""Multi-head attention with an explicit key/value cache, and the masks of the text decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.models.fused_attention import HEADS, fused_attention, fuses
from coca_jax.models.layers import Dense, constrain


@struct.dataclass
class KeyValues:
    """Projected keys and values of one attention layer, laid out as its two matmuls read them.

    All keys of one cache have their bias, or none has: it changes no attention weight.

    With stacked layers, all leaves have a leading `layers` axis outside of the scan.
    """

    keys: Any  # [b, heads, head size, s]
    values: Any  # [b, heads, s, head size]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention; the softmax runs in float32."""

    num_heads: int
    width: int
    dtype: jnp.dtype
    implementation: str = "xla"  # or cudnn, pallas; decoding with a cache has its own

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        source: Float[Array, "n s c"] | None,
        mask: Bool[Array, "#b 1 #t k"] | None = None,
        cache: KeyValues | None = None,
        position: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t w"], KeyValues]:
        """Attends from `x` to keys and values of `source`, of `cache`, or of both.

        Args:
          x: queries before their projection.
          source: what keys and values are projected from; None reads them from `cache`. It may
            have fewer rows than `x`, b / n of which in a row then share one (without a mask).
          mask: True where a query may attend to a key.
          cache: of earlier positions; `source`, if there is one, is then `x`, whose keys and values
            are written into the cache at `position`.
          position: first row of the cache that this call writes.

        Returns:
          The attended values [b, t, width], and all keys and values that were attended to.
        """

        def projected(x: Array, name: str, **options: bool) -> Any:
            return Dense(self.width, ("embed", "heads"), self.dtype, **options, name=name)(x)

        key_values, value_bias = cache, None
        if cache is None:
            query = self._heads(projected(x, "query"))
            # A bias of all keys adds the same to all logits of a query, which a softmax does not
            # see. One of all values is added to the result, since a query's weights sum to 1.
            keys, _ = projected(source, "key", separate_bias=True)
            values, value_bias = projected(source, "value", separate_bias=True)
            key_values = _laid_out(self._heads(keys), self._heads(values + value_bias[None, None]))
            keys, values = self._heads(keys), self._heads(values)
        elif source is None:
            query = self._heads(projected(x, "query"))
        else:
            query, keys, values = map(self._heads, self._projected_together(x))
            key_values = _written(cache, _laid_out(keys, values), position)
        # Several rows of `x` in a row may share one row of keys: their positions line up as one's.
        batch = key_values.keys.shape[0]
        shared = query.reshape(batch, -1, *query.shape[2:])
        if cache is None:
            attended = dot_product_attention(shared, keys, values, mask, self.implementation)
        else:
            attended = _attend(shared, key_values, mask)
        attended = attended.reshape(*query.shape[:2], self.width)
        out = Dense(self.width, ("heads", "embed"), self.dtype, name="out")
        return out(attended, value_bias), key_values

    def _projected_together(self, x: Float[Array, "b t d"]) -> Float[Array, "three b t w"]:
        """Queries, keys and values of the same positions by one matmul.

        While decoding, three small matmuls take twice as long as one on a CPU.
        """
        parts = [self.get_variable("params", name) for name in ("query", "key", "value")]
        kernel = jnp.stack([part["kernel"] for part in parts], axis=1).astype(self.dtype)
        bias = jnp.stack([part["bias"] for part in parts]).astype(self.dtype)
        projected = jnp.einsum("btd,dpw->btpw", x, kernel) + bias[None, None]
        return projected.transpose(2, 0, 1, 3)

    def _heads(self, x: Float[Array, "b s w"]) -> Float[Array, "b s h k"]:
        return constrain(x.reshape(*x.shape[:2], self.num_heads, -1), HEADS)


def dot_product_attention(
    query: Float[Array, "b t h k"],
    keys: Float[Array, "b s h k"],
    values: Float[Array, "b s h k"],
    mask: Bool[Array, "#b 1 #t s"] | None,
    implementation: str = "xla",
) -> Float[Array, "b t h k"]:
    """Dot-product attention by this implementation: `xla`, `cudnn` or `pallas`."""
    if implementation == "cudnn":
        return with_even_lengths(query, keys, values, mask, implementation)
    if implementation == "pallas" and fuses(query.shape[1], keys.shape[1]):
        return fused_attention(query, keys, values, mask)
    return jax.nn.dot_product_attention(query, keys, values, mask=mask, implementation="xla")


def with_even_lengths(
    query: Float[Array, "b t h k"],
    keys: Float[Array, "b s h k"],
    values: Float[Array, "b s h k"],
    mask: Bool[Array, "#b 1 #t s"] | None,
    implementation: str,
) -> Float[Array, "b t h k"]:
    """Attention with lengths padded to even numbers, which cuDNN's gradient requires."""
    (batch, queries), length = query.shape[:2], keys.shape[1]
    more, behind = queries % 2, length % 2

    def padded(x: Array, count: int) -> Array:
        return jnp.pad(x, ((0, 0), (0, count), (0, 0), (0, 0))) if count else x

    lengths = None
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], queries, length))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, more), (0, behind)))
    elif behind:
        lengths = jnp.full((batch,), length, jnp.int32)
    attended = jax.nn.dot_product_attention(
        padded(query, more),
        padded(keys, behind),
        padded(values, behind),
        mask=mask,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return attended[:, :queries]


def _laid_out(keys: Float[Array, "b s h k"], values: Float[Array, "b s h k"]) -> KeyValues:
    return KeyValues(keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3))


def _written(cache: KeyValues, new: KeyValues, position: Int[Array, ""]) -> KeyValues:
    """The cache with new keys and values from `position` on."""
    write = jax.lax.dynamic_update_slice_in_dim
    return KeyValues(
        write(cache.keys, new.keys, position, 3), write(cache.values, new.values, position, 2)
    )


def _attend(
    query: Float[Array, "b t h k"], key_values: KeyValues, mask: Bool[Array, "#b 1 #t s"] | None
) -> Float[Array, "b t h k"]:
    """Attention of few queries: the cache is read as it lies, and not transposed at every step."""
    size = query.shape[-1]
    logits = jnp.einsum(
        "bthk,bhks->bhts", query, key_values.keys, preferred_element_type=jnp.float32
    ) / jnp.sqrt(jnp.float32(size))
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    return jnp.einsum("bhts,bhsk->bthk", weights, key_values.values)


def causal_mask(length: int) -> Bool[Array, "1 1 t t"]:
    """Each query attends to itself and to the positions before it."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


def causal_mask_with_cls(
    valid: Bool[Array, "b t"], shifted: bool = False
) -> Bool[Array, "b 1 t1 t1"]:
    """The unimodal half's mask for a right-padded text with [CLS] appended at its end.

    Tokens are causal, and so never see [CLS] or the padding behind them; [CLS] sees itself and the
    real tokens only, so that padding a text further does not change its embedding.

    Args:
      valid: which tokens are not padding.
      shifted: OpenCLIP's mask instead (its class was to be in front): key 0 is visible, and key j
        where token j - 1 is not padding, to every later query and to itself. So [CLS] sees the
        first padding, and itself only where there is none.
    """
    length = valid.shape[1] + 1
    if shifted:
        visible = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        return causal_mask(length) & visible[:, None, None, :]
    visible = jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True)
    is_cls = (jnp.arange(length) == length - 1)[None, None, :, None]
    return causal_mask(length) & (visible[:, None, None, :] | ~is_cls)


def segment_mask(segments: Int[Array, "b t"], count: int) -> Bool[Array, "b 1 t1 t1"]:
    """The unimodal half's mask for rows of packed texts, each row with `count` [CLS] at its end.

    A token attends to itself and to the tokens before it of its own text; the [CLS] of a text to
    itself and to all tokens of that text.

    Args:
      segments: the number of each token's text in its row, from 1 on; 0 at padding.
      count: texts of a row that have a [CLS]; 0 makes the multimodal half's mask.
    """
    cls = jnp.broadcast_to(jnp.arange(1, count + 1)[None], (segments.shape[0], count))
    segments = jnp.concatenate([segments, cls], axis=1)
    same = segments[:, :, None] == segments[:, None, :]
    return same[:, None] & causal_mask(segments.shape[1])


def segment_context_mask(
    segments: Int[Array, "b t"], count: int, length: int
) -> Bool[Array, "b 1 t s"]:
    """Which token of packed texts reads which image: those of its own text.

    Args:
      segments: as in `segment_mask`. Padding reads the first image, and nothing reads padding.
      count: images of a row, as many as it has texts.
      length: tokens of an image.
    """
    images = jnp.repeat(jnp.arange(1, count + 1), length)
    return jnp.maximum(segments, 1)[:, None, :, None] == images[None, None, None]


def segment_positions(segments: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """The position of each token in its own text, from 0 on."""
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    starts = jnp.where(segment_starts(segments), index, 0)
    return index - jax.lax.cummax(starts, axis=1)


def segment_starts(segments: Int[Array, "b t"]) -> Bool[Array, "b t"]:
    """Where a text or the padding of a row begins."""
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return segments != before


def cached_mask(position: Int[Array, ""], queries: int, length: int) -> Bool[Array, "1 1 t s"]:
    """Causal mask of `queries` positions from `position` on, over a cache of `length` rows."""
    rows = position + jnp.arange(queries)[:, None]
    return (jnp.arange(length)[None, :] <= rows)[None, None]
