"""Pre-LayerNorm transformer layers, scanned: one layer is compiled whatever their number."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.models.attention import Attention, KeyValues
from coca_jax.models.layers import Mlp, Residual, layer_norm


@struct.dataclass
class LayerCache:
    """What a layer keeps while decoding: the text so far, and the image (None: not yet seen)."""

    text: KeyValues
    image: KeyValues | None = None


class Block(nn.Module):
    """Self-attention, optional cross-attention, MLP; each before a residual addition."""

    heads: int
    mlp: int
    cross: bool
    dropout: float
    stochastic: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        per_layer: tuple[Float[Array, ""], LayerCache | None],
        mask: Bool[Array, "#b 1 t s"] | None,
        context: Float[Array, "b n c"] | None,
        position: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "b t d"], LayerCache | None]:
        """One layer, in the form that `nn.scan` wants: (carry, scanned, broadcast...)."""
        depth_rate, cache = per_layer
        attention = lambda name: Attention(self.heads, x.shape[-1], self.dtype, name=name)  # noqa: E731
        norm = lambda name: layer_norm(self.dtype, name)  # noqa: E731
        residual = Residual(self.dropout, self.stochastic, name="residual")

        y = norm("self_attention_norm")(x)
        text_cache = None if cache is None else cache.text
        y, text = attention("self_attention")(y, y, mask, text_cache, position)
        x = residual(x, y, depth_rate)
        image = None
        if self.cross:
            y = norm("cross_attention_norm")(x)
            image_cache = cache.image if cache is not None and context is None else None
            y, image = attention("cross_attention")(y, context, None, image_cache)
            x = residual(x, y, depth_rate)
        y = Mlp(self.mlp, self.dtype, name="mlp")(norm("mlp_norm")(x))
        x = residual(x, y, depth_rate)
        # The image's keys and values are handed on once; later steps only read them.
        new_image = image if context is not None else None
        return x, None if cache is None else LayerCache(text, new_image)


class Transformer(nn.Module):
    """A stack of blocks whose parameters are stacked on a leading `layers` axis."""

    layers: int
    heads: int
    mlp: int
    cross: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: str = "none"
    unroll: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b 1 t s"] | None = None,
        context: Float[Array, "b n c"] | None = None,
        cache: LayerCache | None = None,
        position: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], LayerCache | None]:
        """Runs all layers.

        Args:
          x: the residual stream.
          mask: True where a position may attend to another in self-attention.
          context: what cross-attention reads; None takes it from `cache`.
          cache: leaves have a leading `layers` axis; None means that nothing is kept.
          position: first row of the cache that `x` stands for.

        Returns:
          The residual stream after the last layer (before any norm), and the new cache.
        """
        layer = nn.scan(
            _rematerialized(Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.layers,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(
            self.heads,
            self.mlp,
            self.cross,
            self.dropout,
            self.stochastic_depth > 0,
            self.dtype,
            name="layers",
        )
        depth_rates = jnp.linspace(0, self.stochastic_depth, self.layers)
        x, new_cache = layer(x, (depth_rates, cache), mask, context, position)
        if cache is not None and context is None:
            new_cache = new_cache.replace(image=cache.image)
        return x, new_cache

    def empty_cache(self, batch: int, length: int, width: int) -> LayerCache:
        """Room for `length` positions of text, with no image yet."""
        shape = (self.layers, batch, length, self.heads, width // self.heads)
        return LayerCache(KeyValues(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)))


def _rematerialized(block: type[nn.Module], name: str) -> type[nn.Module]:
    """The block, recomputed in the backward pass as the named policy says."""
    if name == "none":
        return block
    policy = None if name == "full" else getattr(jax.checkpoint_policies, name)
    return nn.remat(block, policy=policy, prevent_cse=False)
