"""The text decoder's two halves: unimodal (text only) and multimodal (text that sees the image)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from coca_jax.models.attention import cached_mask, causal_mask, causal_mask_with_cls
from coca_jax.models.config import CoCaConfig
from coca_jax.models.layers import ACTIVATION, LayerNorm, constrain, partitioned
from coca_jax.models.transformer import LayerCache, Transformer

LOGITS = ("batch", "length", "vocab")


@struct.dataclass
class DecoderCache:
    """Keys and values of both halves, each as `Transformer` gives them: a LayerCache, or with
    layers apart a tuple of them."""

    unimodal: Any
    multimodal: Any

    @property
    def length(self) -> int:
        """The number of tokens that it has room for."""
        return jax.tree.leaves(self.unimodal)[0].shape[-1]

    def select(self, chosen: Int[Array, "images k"]) -> "DecoderCache":
        """For each image the k texts that are chosen among its own, again or not at all."""
        images, count = chosen.shape

        def pick(leaf: Array) -> Array:
            grouped = leaf.reshape(*leaf.shape[:-4], images, -1, *leaf.shape[-3:])
            axis = grouped.ndim - 5
            taken = jax.vmap(lambda x, i: jnp.take(x, i, axis), (axis, 0), axis)(grouped, chosen)
            return taken.reshape(*leaf.shape[:-4], images * count, *leaf.shape[-3:])

        def texts(layer: LayerCache) -> LayerCache:
            return layer.replace(text=jax.tree.map(pick, layer.text))

        return jax.tree.map(texts, self, is_leaf=lambda x: isinstance(x, LayerCache))


class TextDecoder(nn.Module):
    """Token embedding, both halves and the softmax; each part exists if its loss is trained.

    The multimodal half has no positions of its own, and no [CLS] (arXiv 2205.01917, figure 2).
    """

    config: CoCaConfig
    dtype: jnp.dtype

    def setup(self):
        """Creates the parts."""
        text, normal = self.config.text, nn.initializers.normal(0.02)
        has_cls = self.config.has_cls
        self.embedding = self.param(
            "embedding",
            partitioned(normal, "vocab", "embed"),
            (text.vocab_size, text.width),
            jnp.float32,
        )
        # The last row is [CLS]'s own position, wherever padding puts it.
        self.positions = self.param(
            "positions",
            partitioned(normal, None, "embed"),
            (text.context_length + has_cls, text.width),
            jnp.float32,
        )
        self.unimodal = self._half(text.unimodal_layers, cross=False)
        if has_cls:
            self.cls = self.param("cls", partitioned(normal, "embed"), (text.width,), jnp.float32)
            self.cls_norm = LayerNorm(self.dtype)
        if self.config.multimodal:
            self.multimodal = self._half(text.multimodal_layers, cross=True)
            self.norm = LayerNorm(self.dtype)
        if self.config.captioning and not text.tie_embeddings:
            self.lm_head = self.param(
                "lm_head",
                partitioned(nn.initializers.xavier_uniform(), "embed", "vocab"),
                (text.width, text.vocab_size),
                jnp.float32,
            )

    def unimodal_features(
        self, ids: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b d"] | None]:
        """The unimodal half: features of each token and, if there is a [CLS], its own."""
        x = self._embed(ids) + self.positions[None, : ids.shape[1]].astype(self.dtype)
        if not self.config.has_cls:
            x, _ = self.unimodal(constrain(x, ACTIVATION), causal_mask(ids.shape[1]))
            return x, None
        cls = (self.cls + self.positions[-1]).astype(self.dtype)
        cls = jnp.broadcast_to(cls, (ids.shape[0], 1, cls.shape[0]))
        x = constrain(jnp.concatenate([x, cls], axis=1), ACTIVATION)
        text = self.config.text
        x, _ = self.unimodal(x, causal_mask_with_cls(ids != text.pad_id, text.shifted_cls_mask))
        return x[:, :-1], self.cls_norm(x[:, -1])

    def caption_logits(
        self, features: Float[Array, "b t d"], context: Float[Array, "images n c"]
    ) -> Float[Array, "b t v"]:
        """The multimodal half: float32 logits, position t predicting token t + 1.

        `b / images` consecutive texts are about one image.
        """
        return logits(self.multimodal_features(features, context), self.unembedding())

    def multimodal_features(
        self, features: Float[Array, "b t d"], context: Float[Array, "images n c"]
    ) -> Float[Array, "b t d"]:
        """The multimodal half up to its last norm; times `unembedding` they are logits."""
        x, _ = self.multimodal(features, causal_mask(features.shape[1]), context)
        return self.norm(x)

    def unembedding(self) -> Float[Array, "d v"]:
        """The last layer's kernel, in the activations' type."""
        kernel = self.embedding.T if self.config.text.tie_embeddings else self.lm_head
        return kernel.astype(self.dtype)

    def decode_step(
        self,
        ids: Int[Array, "b t"],
        position: Int[Array, ""],
        cache: DecoderCache,
        context: Float[Array, "images n c"] | None = None,
    ) -> tuple[Float[Array, "b t v"], DecoderCache]:
        """Logits of `ids` at `position` and after, given what the cache holds before them.

        The first call gives the images as `context`; later ones find their keys and values cached.
        `b / images` consecutive texts are about one image.
        """
        rows = jax.lax.dynamic_slice_in_dim(self.positions, position, ids.shape[1])
        x = self._embed(ids) + rows[None].astype(self.dtype)
        mask = cached_mask(position, ids.shape[1], cache.length)
        x, unimodal = self.unimodal(x, mask, None, cache.unimodal, position)
        x, multimodal = self.multimodal(x, mask, context, cache.multimodal, position)
        return logits(self.norm(x), self.unembedding()), DecoderCache(unimodal, multimodal)

    def empty_cache(self, batch: int, length: int) -> DecoderCache:
        """Room for `length` tokens of `batch` texts."""
        width = self.config.text.width
        return DecoderCache(
            self.unimodal.empty_cache(batch, length, width),
            self.multimodal.empty_cache(batch, length, width),
        )

    def _half(self, layers: int, cross: bool) -> Transformer:
        text = self.config.text
        return Transformer(
            layers,
            text.num_heads,
            text.mlp_dim,
            cross=cross,
            interleaved=cross and text.interleaved,
            dropout=self.config.dropout,
            stochastic_depth=self.config.stochastic_depth,
            remat=text.remat or self.config.remat,
            unroll=self.config.scan_unroll,
            stacked=self.config.stacked,
            dtype=self.dtype,
            attention=self.config.attention,
        )

    def _embed(self, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        # Rows are looked up whole, so that the result can be split by batch without a detour.
        table = constrain(self.embedding.astype(self.dtype), ("vocab", None))
        return constrain(table[ids], ACTIVATION)


def logits(
    features: Float[Array, "b t d"], unembedding: Float[Array, "d v"]
) -> Float[Array, "b t v"]:
    """All logits over the vocabulary, in float32."""
    scores = jnp.einsum("btd,dv->btv", features, unembedding, preferred_element_type=jnp.float32)
    return constrain(scores, LOGITS)
