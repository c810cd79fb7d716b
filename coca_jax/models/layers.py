"""The leaves of every tower: sharded Dense, LayerNorm, MLP and stochastic depth.

Parameters carry logical axis names and activations are constrained by the same names; the table
that maps them to mesh axes is the caller's (`flax.linen.logical_axis_rules`). Randomness is on
exactly when a `dropout` key is passed to `apply`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LAYER_NORM_EPSILON = 1e-5
ACTIVATION = ("batch", "length", "embed")
constrain = nn.with_logical_constraint


def partitioned(initializer: Callable, *axes: str | None) -> Callable:
    """An initializer whose result carries the logical axis names `axes`."""
    return nn.with_logical_partitioning(initializer, axes)


def dense(
    features: int, axes: tuple[str, str], dtype: jnp.dtype, name: str, *, use_bias: bool = True
) -> nn.Dense:
    """A Dense layer with a [in, features] kernel on the logical axes `axes`."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=partitioned(nn.initializers.xavier_uniform(), *axes),
        bias_init=partitioned(nn.initializers.zeros, axes[1]),
        name=name,
    )


def layer_norm(dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm over the last axis; its statistics are float32 whatever `dtype` is."""
    return nn.LayerNorm(
        epsilon=LAYER_NORM_EPSILON,
        dtype=dtype,
        scale_init=partitioned(nn.initializers.ones, "embed"),
        bias_init=partitioned(nn.initializers.zeros, "embed"),
        name=name,
    )


class Mlp(nn.Module):
    """Dense, exact GELU, Dense."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Maps each position on its own."""
        width = x.shape[-1]
        x = dense(self.hidden, ("embed", "mlp"), self.dtype, "up")(x)
        x = constrain(nn.gelu(x, approximate=False), ("batch", "length", "mlp"))
        return dense(width, ("mlp", "embed"), self.dtype, "down")(x)


class Residual(nn.Module):
    """Adds a branch to the residual stream, with dropout and stochastic depth (arXiv 1603.09382).

    Stochastic depth leaves the branch out for a whole example with probability `depth_rate` and
    scales it by 1 / (1 - depth_rate) otherwise, so that its expectation does not change.
    """

    dropout: float
    stochastic: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], branch: Float[Array, "b t d"], depth_rate: Float[Array, ""]
    ) -> Float[Array, "b t d"]:
        """Returns `x + branch`, or its random version when a `dropout` key is there."""
        if self.has_rng("dropout"):
            branch = nn.Dropout(self.dropout, deterministic=False)(branch)
            if self.stochastic:
                keep = jax.random.bernoulli(
                    self.make_rng("dropout"), 1 - depth_rate, (x.shape[0], 1, 1)
                )
                branch = jnp.where(keep, branch / (1 - depth_rate).astype(branch.dtype), 0)
        return constrain(x + branch, ACTIVATION)
