"""Pre-LayerNorm transformer layers, stacked and scanned, or apart."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.models.attention import Attention, KeyValues
from coca_jax.models.layers import LayerNorm, Mlp, Residual


@struct.dataclass
class LayerCache:
    """A layer's keys and values while decoding: of the text, and of the image (None: unseen)."""

    text: KeyValues
    image: KeyValues | None = None


Cache = LayerCache | tuple[LayerCache, ...]


class Block(nn.Module):
    """Self-attention, optional cross-attention, MLP; each before a residual addition.

    An interleaved block is two layers in one: self-attention and MLP, then cross-attention and MLP.
    It normalizes the input that its keys and values are made from.
    """

    num_heads: int
    mlp_dim: int
    cross: bool
    interleaved: bool
    dropout: float
    stochastic: bool
    dtype: jnp.dtype
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        per_layer: tuple[Float[Array, ""], LayerCache | None],
        mask: Bool[Array, "#b 1 #t s"] | None,
        context: Float[Array, "images n c"] | None,
        context_mask: Bool[Array, "b 1 #t n"] | None,
        position: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "b t d"], LayerCache | None]:
        """One layer, in the form that `nn.scan` wants: (carry, scanned, broadcast...)."""
        depth_rate, cache = per_layer
        attention = functools.partial(
            Attention, self.num_heads, x.shape[-1], self.dtype, self.attention
        )
        norm = lambda name: LayerNorm(self.dtype, name=name)  # noqa: E731
        residual = Residual(self.dropout, self.stochastic, name="residual")

        y = norm("self_attention_norm")(x)
        text_cache = None if cache is None else cache.text
        y, text = attention(name="self_attention")(y, y, mask, text_cache, position)
        x = residual(x, y, depth_rate)
        image = None
        if self.interleaved:
            y = Mlp(self.mlp_dim, self.dtype, name="self_mlp")(norm("self_mlp_norm")(x))
            x = residual(x, y, depth_rate)
            context = None if context is None else norm("context_norm")(context)
        if self.cross:
            y = norm("cross_attention_norm")(x)
            image_cache = cache.image if cache is not None and context is None else None
            y, image = attention(name="cross_attention")(y, context, context_mask, image_cache)
            x = residual(x, y, depth_rate)
        y = Mlp(self.mlp_dim, self.dtype, name="mlp")(norm("mlp_norm")(x))
        x = residual(x, y, depth_rate)
        # The image's keys and values are handed on once; later steps only read them.
        new_image = image if context is not None else None
        return x, None if cache is None else LayerCache(text, new_image)


class Group(nn.Module):
    """Consecutive blocks that are one layer of a scan: only the first has cross-attention."""

    block: Callable[..., nn.Module]
    settings: tuple[tuple[Any, ...], ...]  # of each block

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        per_layer: tuple[Float[Array, " n"], tuple[LayerCache, ...] | None],
        *shared: Any,
    ) -> tuple[Float[Array, "b t d"], tuple[LayerCache, ...] | None]:
        """All blocks, in the form that `nn.scan` wants: (carry, scanned, broadcast...)."""
        rates, caches = per_layer
        new_caches = []
        for i, settings in enumerate(self.settings):
            layer = self.block(*settings, name=f"layer_{i}")
            x, new = layer(x, (rates[i], caches and caches[i]), *shared)
            new_caches.append(new)
        return x, caches and tuple(new_caches)


class Transformer(nn.Module):
    """A number of blocks.

    Stacked, each parameter has a leading `layers` axis, and `unroll` layers are compiled, whatever
    their number. Apart (`layer_0`, `layer_1`, ...), nothing needs to be cut out of the stack before
    it is used, which is what decoding would spend most of its time with: `unstack` makes the
    parameters. Where only every n-th block has cross-attention, n in a row are stacked together.
    """

    num_layers: int
    num_heads: int
    mlp_dim: int
    cross: bool = False
    cross_every: int = 1  # of this many blocks in a row, the first has cross-attention
    interleaved: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: str = "none"
    unroll: int = 1
    stacked: bool = True
    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b 1 #t s"] | None = None,
        context: Float[Array, "images n c"] | None = None,
        context_mask: Bool[Array, "b 1 #t n"] | None = None,
        cache: Cache | None = None,
        position: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Cache | None]:
        """Runs all layers.

        Args:
          x: the residual stream.
          mask: True where a position may attend to another in self-attention.
          context: what cross-attention reads; None takes it from `cache`. Of b rows of `x`,
            b / images in a row share one.
          context_mask: True where a position may read a row of `context`; all by default. It needs
            as many images as rows of `x`.
          cache: leaves have a leading `layers` axis (apart: one cache for each layer; of groups of
            blocks: one for each block of a group); None means that nothing is kept.
          position: first row of the cache that `x` stands for.

        Returns:
          The residual stream after the last layer (before any norm), and the new cache.
        """
        length = x.shape[1]
        if self.attention == "cudnn" and cache is None:
            x, mask = pad_to_even_length(x, mask)
            if context_mask is not None and 1 < context_mask.shape[2] < x.shape[1]:
                added = ((0, 0), (0, 0), (0, 1), (0, 0))
                context_mask = jnp.pad(context_mask, added, constant_values=True)
        # Outside of a loop, XLA would find what is computed twice, and keep it.
        block = _rematerialized(
            self._cutting(Block), self.remat, prevent_cse=not self.stacked or self.unroll > 1
        )
        run = self._scan if self.stacked else self._loop
        x, new_cache = run(block, x, cache, mask, context, context_mask, position)
        if cache is not None and context is None:
            new_cache = jax.tree.map(
                lambda new, old: new.replace(image=old.image), new_cache, cache, is_leaf=_is_cache
            )
        return x[:, :length], new_cache

    def _cutting(self, block: type[nn.Module]) -> type[nn.Module]:
        """The block, which cuts its parameters out of their stacks where layers are unrolled."""
        steps = self.num_layers // self.cross_every
        if not self.stacked or not 1 < steps <= self.unroll or self.is_initializing():
            return block
        return nn.map_variables(block, "params", functools.partial(_cut_out, dtype=self.dtype))

    def _scan(self, block: type[nn.Module], x: Array, cache: Cache | None, *shared):
        steps, rates = self.num_layers // self.cross_every, self._depth_rates()
        settings = [self._settings(i) for i in range(self.cross_every)]
        if grouped := self.cross_every > 1:
            settings, rates = [block, tuple(settings)], rates.reshape(steps, -1)
        else:
            settings = settings[0]
        scanned = nn.scan(
            Group if grouped else block,
            # The factors of LoRA, and what `attention_maps` has the layers keep; else empty.
            variable_axes={"params": 0, "lora": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *[nn.broadcast] * len(shared)),
            length=steps,
            unroll=max(1, min(self.unroll, steps)),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(*settings, name="layers")(x, (rates, cache), *shared)

    def _loop(
        self, block: type[nn.Module], x: Array, cache: tuple[LayerCache, ...] | None, *shared
    ):
        caches = (None,) * self.num_layers if cache is None else cache
        new_caches = []
        for i, per_layer in enumerate(zip(self._depth_rates(), caches, strict=True)):
            x, new = block(*self._settings(i), name=f"layer_{i}")(x, per_layer, *shared)
            new_caches.append(new)
        return x, None if cache is None else tuple(new_caches)

    def _depth_rates(self) -> Float[Array, " layers"]:
        return jnp.linspace(0, self.stochastic_depth, self.num_layers, dtype=jnp.float32)

    def _settings(self, layer: int) -> tuple[Any, ...]:
        """The arguments of a layer's block."""
        cross = self.cross and layer % self.cross_every == 0
        return (
            self.num_heads,
            self.mlp_dim,
            cross,
            self.interleaved and cross,
            self.dropout,
            self.stochastic_depth > 0,
            self.dtype,
            self.attention,
        )

    def empty_cache(self, batch: int, length: int, width: int) -> Cache:
        """Room for `length` positions of text, with no image yet."""

        def room(*shape: int) -> LayerCache:
            size = width // self.num_heads
            keys = jnp.zeros((*shape, self.num_heads, size, length), self.dtype)
            return LayerCache(KeyValues(keys, keys.swapaxes(-1, -2)))

        if not self.stacked:
            return tuple(room(batch) for _ in range(self.num_layers))
        stack = room(self.num_layers // self.cross_every, batch)
        return stack if self.cross_every == 1 else (stack,) * self.cross_every


def unstack(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of stacked layers as those of layers apart."""
    result = {}
    for name, value in params.items():
        if name == "layers":
            # Of groups of blocks, each block of a group is a stack of its own.
            stacks = [v for k, v in value.items() if k.startswith("layer_")] or [value]
            for i in range(len(stacks) * len(jax.tree.leaves(value)[0])):
                step, stack = divmod(i, len(stacks))
                result[f"layer_{i}"] = jax.tree.map(lambda x, i=step: x[i], stacks[stack])
        else:
            result[name] = unstack(value) if isinstance(value, dict) else value
    return result


def _is_cache(x: Any) -> bool:
    return isinstance(x, LayerCache)


def _cut_out(variables: dict[str, Any], dtype: jnp.dtype) -> dict[str, Any]:
    """A layer's parameters, cut out of their stacks before anything else reads them.

    Otherwise XLA for GPUs cuts inside each kernel, and compiles every kernel once for each layer.
    """

    def cast(path: Any, leaf: Array) -> Array:
        is_kernel = any(getattr(key, "key", "") == "kernel" for key in path)
        return leaf.astype(dtype) if is_kernel else leaf

    return jax.lax.optimization_barrier(jax.tree_util.tree_map_with_path(cast, variables))


def pad_to_even_length(
    x: Float[Array, "b t d"], mask: Bool[Array, "#b 1 #t t"] | None
) -> tuple[Float[Array, "b t2 d"], Bool[Array, "#b 1 #t2 t2"] | None]:
    """A stream of odd length with one more position, which no other attends to.

    cuDNN's attention takes even lengths only, and padding once costs less than in every layer.
    """
    length = x.shape[1]
    if length % 2 == 0:
        return x, mask
    if mask is None:
        mask = jnp.ones((1, 1, length, length), bool)
    mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, length))
    last_query, last_key = ((0, 0), (0, 0), (0, 1), (0, 0)), ((0, 0), (0, 0), (0, 0), (0, 1))
    mask = jnp.pad(jnp.pad(mask, last_key), last_query, constant_values=True)
    return jnp.pad(x, ((0, 0), (0, 1), (0, 0))), mask


def _rematerialized(block: type[nn.Module], name: str, prevent_cse: bool) -> type[nn.Module]:
    """The block, recomputed in the backward pass as the named policy says."""
    if name == "none":
        return block
    policies = jax.checkpoint_policies
    if name == "offload":
        policy = policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    else:
        policy = None if name == "full" else getattr(policies, name)
    return nn.remat(block, policy=policy, prevent_cse=prevent_cse)
