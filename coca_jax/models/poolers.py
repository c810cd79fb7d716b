"""Attentional poolers: learned queries that read an encoded image through one attention layer."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from coca_jax.models.attention import Attention
from coca_jax.models.layers import ACTIVATION, LayerNorm, constrain, partitioned


class AttentionalPooler(nn.Module):
    """One multi-head attention layer with `queries` learned queries, then LayerNorm.

    Keys and values are the tokens it is given (arXiv 2205.01917, section 3.2).
    """

    queries: int
    width: int
    num_heads: int
    dtype: jnp.dtype
    query_norm: bool = False
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n c"],
        query_slice: slice = slice(None),
        mask: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b q d"]:
        """Pools any number of tokens into one token of size `width` for each query asked.

        Args:
          tokens: what is read.
          query_slice: which of the queries; all by default.
          mask: which tokens may be read; all by default.
        """
        learned = self.param(
            "queries",
            # Of unit variance: from smaller queries attention starts out even over all tokens, and
            # what is where in an image is averaged away for thousands of steps.
            partitioned(nn.initializers.normal(1.0), None, "embed"),
            (self.queries, self.width),
            jnp.float32,
        )
        learned = learned[query_slice].astype(self.dtype)
        if self.query_norm:
            learned = LayerNorm(self.dtype, name="query_norm")(learned)
        batched = jnp.broadcast_to(learned, (tokens.shape[0], *learned.shape))
        attention = Attention(
            self.num_heads, self.width, self.dtype, self.attention, name="attention"
        )
        mask = None if mask is None else mask[:, None, None, :]
        pooled, _ = attention(constrain(batched, ACTIVATION), tokens, mask)
        return LayerNorm(self.dtype, name="norm")(constrain(pooled, ACTIVATION))
