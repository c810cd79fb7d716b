"""The image encoder: a ViT over non-overlapping patches (arXiv 2010.11929)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, UInt8

from coca_jax.models.config import CoCaConfig
from coca_jax.models.layers import ACTIVATION, Dense, LayerNorm, constrain, partitioned
from coca_jax.models.resampling import positions_at
from coca_jax.models.transformer import Transformer
from coca_jax.patches import Patches

Pixels = Float[Array, "b h w c"] | Patches  # normalized


@struct.dataclass
class ImageTokens:
    """An encoded image."""

    values: Any  # [b, n, d]
    mask: Any = None  # bool [b, n]: which of them are not padding; None: all

    def __len__(self) -> int:
        return len(self.values)


def normalize_pixels(
    images: UInt8[Array, "*b h w c"] | Patches, mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "*b h w c"] | Patches:
    """Bytes to float32: ((x / 255) - mean) / std, channel by channel. Runs on the device."""
    if isinstance(images, Patches):
        *shape, size = images.patches.shape
        channels = images.patches.reshape(*shape, size // 3, 3)
        normal = normalize_pixels(channels, mean, std)
        return Patches(normal.reshape(images.patches.shape), images.grid)
    mean, std = (
        jnp.array(each, jnp.float32).reshape(*[1] * (images.ndim - 1), -1) for each in (mean, std)
    )
    return (images.astype(jnp.float32) / 255 - mean) / std


class ImageEncoder(nn.Module):
    """Pixels to one token per patch (or per kept patch, in training with patch dropout).

    With a class token, that is the first. Images that are `Patches` have their own grids: the
    learned positions are resampled to each, and no token attends to padding.
    """

    config: CoCaConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: Pixels) -> ImageTokens:
        """Encodes normalized pixels; tokens are in row order of their patches."""
        image = self.config.image
        axes, use_bias = ("patch", "embed"), image.patch_bias
        native = isinstance(pixels, Patches)
        cut = pixels.patches if native else patches(pixels, image.patch)
        mask = pixels.mask if native else None
        x = Dense(image.width, axes, self.dtype, use_bias, name="patch_embedding")(
            cut.astype(self.dtype)
        )
        positions = self.param(
            "positions",
            partitioned(nn.initializers.normal(image.width**-0.5), None, "embed"),
            (image.positions, image.width),
            jnp.float32,
        )
        first = int(image.class_token)
        own = positions[None, first:]
        if native:
            own = positions_at(positions[first:], image.grid, pixels.grid, x.shape[1])
        x = constrain(x + own.astype(self.dtype), ACTIVATION)
        if image.patch_dropout and self.has_rng("dropout"):
            x, mask = drop_patches(self.make_rng("dropout"), x, image.patch_dropout, mask)
        if image.class_token:
            normal = nn.initializers.normal(image.width**-0.5)
            token = self.param(
                "class_token", partitioned(normal, "embed"), (image.width,), jnp.float32
            )
            token = (token + positions[0]).astype(self.dtype)
            token = jnp.broadcast_to(token, (x.shape[0], 1, image.width))
            x = constrain(jnp.concatenate([token, x], axis=1), ACTIVATION)
            if native:
                mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
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
        )(x, mask[:, None, None] if native else None)
        return ImageTokens(LayerNorm(self.dtype, name="norm")(x), mask)


def patches(pixels: Float[Array, "b h w c"], patch: int) -> Float[Array, "b n p"]:
    """Cuts images into patches in row order; each is flattened as (row, column, channel)."""
    batch, height, width, channels = pixels.shape
    rows, columns = height // patch, width // patch
    grid = pixels.reshape(batch, rows, patch, columns, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def drop_patches(
    key: jax.Array, x: Float[Array, "b n d"], rate: float, mask: Bool[Array, "b n"] | None = None
) -> tuple[Float[Array, "b kept d"], Bool[Array, "b kept"] | None]:
    """Keeps a random round(n (1 - rate)) tokens of each image, at least one, in their order.

    Args:
      key: of the draw.
      x: the tokens.
      rate: share of the tokens that are dropped.
      mask: which tokens are not padding, which is dropped first; None: all.

    Returns:
      The kept tokens, and their mask.
    """
    batch, tokens, _ = x.shape
    kept = max(1, round(tokens * (1 - rate)))
    draws = jax.random.uniform(key, (batch, tokens), jnp.float32)
    if mask is not None:
        draws = jnp.where(mask, draws, 2.0)
    chosen = jnp.sort(jnp.argsort(draws, axis=1)[:, :kept], axis=1)
    if mask is not None:
        mask = jnp.take_along_axis(mask, chosen, axis=1)
    return jnp.take_along_axis(x, chosen[..., None], axis=1), mask
