"""The image encoder: a ViT over non-overlapping patches (arXiv 2010.11929)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from coca_jax.models.config import CoCaConfig
from coca_jax.models.layers import ACTIVATION, Dense, LayerNorm, constrain, partitioned
from coca_jax.models.transformer import Transformer


def normalize_pixels(
    images: UInt8[Array, "*b h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "*b h w c"]:
    """Bytes to float32: ((x / 255) - mean) / std, channel by channel. Runs on the device."""
    mean, std = (
        jnp.array(each, jnp.float32).reshape(*[1] * (images.ndim - 1), -1) for each in (mean, std)
    )
    return (images.astype(jnp.float32) / 255 - mean) / std


class ImageEncoder(nn.Module):
    """Pixels to one token per patch (or per kept patch, in training with patch dropout).

    With a class token, that is the first.
    """

    config: CoCaConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        """Encodes normalized pixels; tokens are in row order of their patches."""
        image = self.config.image
        axes, use_bias = ("patch", "embed"), image.patch_bias
        x = Dense(image.width, axes, self.dtype, use_bias, name="patch_embedding")(
            patches(pixels, image.patch).astype(self.dtype)
        )
        positions = self.param(
            "positions",
            partitioned(nn.initializers.normal(image.width**-0.5), None, "embed"),
            (image.tokens, image.width),
            jnp.float32,
        )
        first = int(image.class_token)
        x = constrain(x + positions[None, first:].astype(self.dtype), ACTIVATION)
        if image.patch_dropout and self.has_rng("dropout"):
            x = drop_patches(self.make_rng("dropout"), x, image.patch_dropout)
        if image.class_token:
            normal = nn.initializers.normal(image.width**-0.5)
            token = self.param(
                "class_token", partitioned(normal, "embed"), (image.width,), jnp.float32
            )
            token = (token + positions[0]).astype(self.dtype)
            token = jnp.broadcast_to(token, (x.shape[0], 1, image.width))
            x = constrain(jnp.concatenate([token, x], axis=1), ACTIVATION)
        if image.pre_norm:
            x = LayerNorm(self.dtype, name="pre_norm")(x)
        x, _ = Transformer(
            image.num_layers,
            image.num_heads,
            image.mlp_dim,
            dropout=self.config.dropout,
            stochastic_depth=self.config.stochastic_depth,
            remat=image.remat or self.config.remat,
            unroll=self.config.scan_unroll,
            stacked=self.config.stacked,
            dtype=self.dtype,
            attention=self.config.attention,
            name="transformer",
        )(x)
        return LayerNorm(self.dtype, name="norm")(x)


def patches(pixels: Float[Array, "b h w c"], patch: int) -> Float[Array, "b n p"]:
    """Cuts images into patches in row order; each is flattened as (row, column, channel)."""
    batch, height, width, channels = pixels.shape
    rows, columns = height // patch, width // patch
    grid = pixels.reshape(batch, rows, patch, columns, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def drop_patches(key: jax.Array, x: Float[Array, "b n d"], rate: float) -> Float[Array, "b kept d"]:
    """Keeps a random round(n (1 - rate)) tokens of each image, at least one, in their order."""
    batch, tokens, _ = x.shape
    kept = max(1, round(tokens * (1 - rate)))
    order = jnp.argsort(jax.random.uniform(key, (batch, tokens), jnp.float32), axis=1)
    chosen = jnp.sort(order[:, :kept], axis=1)
    return jnp.take_along_axis(x, chosen[..., None], axis=1)
