"""Multi-head attention with an explicit key/value cache, and the masks of the text decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.models.layers import constrain, dense

HEADS = ("batch", "length", "heads", None)


@struct.dataclass
class KeyValues:
    """Projected keys and values of one attention layer (stacked over layers by the scan)."""

    keys: Any  # [b, s, heads, head size], with layers in front outside of the scan
    values: Any


class Attention(nn.Module):
    """Multi-head scaled dot-product attention; the softmax runs in float32."""

    heads: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        source: Float[Array, "b s c"] | None,
        mask: Bool[Array, "#b 1 t k"] | None = None,
        cache: KeyValues | None = None,
        position: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t w"], KeyValues]:
        """Attends from `x` to keys and values made of `source`, found in `cache`, or both.

        Args:
          x: queries before their projection.
          source: what keys and values are projected from; None reads them from `cache`.
          mask: True where a query may attend to a key.
          cache: with a `source`, its keys and values are written into it at `position`.
          position: first row of the cache that this call writes.

        Returns:
          The attended values [b, t, width], and all keys and values that were attended to.
        """
        query = self._heads(dense(self.width, ("embed", "heads"), self.dtype, "query")(x))
        if source is None:
            known = cache
        else:
            known = KeyValues(
                self._heads(dense(self.width, ("embed", "heads"), self.dtype, "key")(source)),
                self._heads(dense(self.width, ("embed", "heads"), self.dtype, "value")(source)),
            )
            if cache is not None:
                known = jax.tree.map(
                    lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, position, 1),
                    cache,
                    known,
                )
        attended = jax.nn.dot_product_attention(query, known.keys, known.values, mask=mask)
        attended = attended.reshape(*attended.shape[:2], self.width)
        return dense(self.width, ("heads", "embed"), self.dtype, "out")(attended), known

    def _heads(self, x: Float[Array, "b s w"]) -> Float[Array, "b s h k"]:
        return constrain(x.reshape(*x.shape[:2], self.heads, -1), HEADS)


def causal_mask(length: int) -> Bool[Array, "1 1 t t"]:
    """Each query attends to itself and to the positions before it."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


def causal_mask_with_cls(valid: Bool[Array, "b t"]) -> Bool[Array, "b 1 t1 t1"]:
    """The unimodal half's mask for a right-padded text with [CLS] appended at its end.

    Tokens are causal, and so never see [CLS] or the padding behind them; [CLS] sees itself and the
    real tokens only, so that padding a text further does not change its embedding.
    """
    length = valid.shape[1] + 1
    visible = jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True)
    is_cls = jnp.arange(length)[:, None] == length - 1
    return causal_mask(length) & (visible[:, None, None, :] | ~is_cls)


def cached_mask(position: Int[Array, ""], queries: int, length: int) -> Bool[Array, "1 1 t s"]:
    """Causal mask of `queries` positions from `position` on, over a cache of `length` rows."""
    rows = position + jnp.arange(queries)[:, None]
    return (jnp.arange(length)[None, :] <= rows)[None, None]
