"""The leaves of every tower: sharded Dense, LayerNorm, MLP and stochastic depth.

Parameters carry logical axis names and activations are constrained by the same names; the table
that maps them to mesh axes is the caller's (`flax.linen.logical_axis_rules`). Randomness is on
exactly when a `dropout` key is passed to `apply`.

LayerNorm and GELU have gradients of their own, so that XLA keeps little for the backward pass and
moves little memory: "Plans for GPUs" in `docs/results.md` says how much each saves. Flax's layers
have the same parameters.
"""

import functools
import math
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


class Dense(nn.Module):
    """A Dense layer with a [in, features] kernel on the logical axes `axes`.

    With `separate_bias` it returns the matmul and the bias, for a caller that has a better use of
    the bias than to add it to every row.
    """

    features: int
    axes: tuple[str, str]
    dtype: jnp.dtype
    use_bias: bool = True
    separate_bias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*rows d"], shift: Float[Array, " d"] | None = None
    ) -> Float[Array, "*rows f"] | tuple[Float[Array, "*rows f"], Float[Array, " f"]]:
        """Returns `(x + shift) @ kernel + bias`; a shift is added to the bias, not to the rows.

        Raises:
          ValueError: there is no bias that a shift could be added to, or that could be apart.
        """
        if not self.use_bias and (shift is not None or self.separate_bias):
            raise ValueError("use_bias=False: a layer without a bias has none to shift or return")
        kernel = self.param(
            "kernel",
            partitioned(nn.initializers.xavier_uniform(), *self.axes),
            (x.shape[-1], self.features),
            jnp.float32,
        )
        last_axis = ((x.ndim - 1,), (0,)), ((), ())
        y = jax.lax.dot_general(x.astype(self.dtype), kernel.astype(self.dtype), last_axis)
        factors = self.get_variable("lora", "kernel")  # see `models.lora`
        if factors is not None:
            y = y + _low_rank(x, factors, self.dtype)
        if not self.use_bias:
            return y
        zeros = partitioned(nn.initializers.zeros, self.axes[1])
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        if shift is not None:
            bias = bias + jnp.sum(shift.astype(jnp.float32)[:, None] * kernel, axis=0)
            if factors is not None:
                bias = bias + _low_rank(shift, factors, jnp.dtype("float32"))
        bias = bias.astype(self.dtype)
        return (y, bias) if self.separate_bias else y + jnp.broadcast_to(bias, y.shape)


def _low_rank(x: Array, factors: dict[str, Array], dtype: jnp.dtype) -> Array:
    return x.astype(dtype) @ factors["a"].astype(dtype) @ factors["b"].astype(dtype)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis; its statistics are float32 whatever `dtype` is."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        """Normalizes each row."""
        shape = (x.shape[-1],)
        scale = self.param("scale", partitioned(nn.initializers.ones, "embed"), shape, jnp.float32)
        bias = self.param("bias", partitioned(nn.initializers.zeros, "embed"), shape, jnp.float32)
        # Rows have one axis: with two, XLA for GPUs lays x out anew for the sums over all rows.
        return normalize(x.reshape(-1, *shape), scale, bias, self.dtype).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "n d"], scale: Float[Array, " d"], bias: Float[Array, " d"], dtype: jnp.dtype
) -> Float[Array, "n d"]:
    """LayerNorm of rows (arXiv 1607.06450); only x and its statistics are kept."""
    return _normalize_forward(x, scale, bias, dtype)[0]


def _normalize_forward(x: Array, scale: Array, bias: Array, dtype: jnp.dtype):
    values = x.astype(jnp.float32)
    mean = jnp.mean(values, axis=-1, keepdims=True)
    # Both sums are of one pass over x, as in Flax.
    variance = jnp.mean(jnp.square(values), axis=-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0) + LAYER_NORM_EPSILON)
    y = (values - mean) * (inverse * scale[None]) + bias[None]
    return y.astype(dtype), (x, scale, mean, inverse)


def _normalize_backward(dtype: jnp.dtype, kept: tuple[Array, ...], d_y: Array):
    x, scale, mean, inverse = kept
    d_y = d_y.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    d_normal = d_y * scale[None]
    along = jnp.mean(d_normal * normal, axis=-1, keepdims=True)
    d_x = inverse * (d_normal - jnp.mean(d_normal, axis=-1, keepdims=True) - normal * along)
    return d_x.astype(x.dtype), jnp.sum(d_y * normal, axis=0), jnp.sum(d_y, axis=0)


normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*rows d"], bias: Float[Array, " d"]) -> Float[Array, "*rows d"]:
    """Exact GELU of `x + bias` (arXiv 1606.08415) in x's type; only x is kept.

    It is computed in float32 from the sum. It is written with erf, which is one instruction for XLA
    on a GPU; erfc is a hundred.
    """
    values = (x + jnp.broadcast_to(bias, x.shape)).astype(jnp.float32)
    return (values * _normal_cdf(values)).astype(x.dtype)


def _gelu_forward(x: Array, bias: Array):
    return gelu(x, bias), (x, bias)


def _gelu_backward(kept: tuple[Array, Array], d_y: Array):
    x, bias = kept
    values = (x + jnp.broadcast_to(bias, x.shape)).astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(values)) / math.sqrt(2 * math.pi)
    d_x = (d_y.astype(jnp.float32) * (_normal_cdf(values) + values * density)).astype(x.dtype)
    d_bias = jnp.sum(d_x.reshape(-1, x.shape[-1]), axis=0, dtype=jnp.float32)
    return d_x, d_bias.astype(bias.dtype)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class Mlp(nn.Module):
    """Dense, exact GELU, Dense."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Maps each position on its own."""
        up = Dense(self.hidden, ("embed", "mlp"), self.dtype, separate_bias=True, name="up")
        down = Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="down")
        return down(constrain(gelu(*up(x)), ("batch", "length", "mlp")))


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
