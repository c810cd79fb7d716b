"""The text decoder's two halves: unimodal (text only) and multimodal (text that sees the image)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from coca_jax.models.attention import (
    cached_mask,
    causal_mask,
    causal_mask_with_cls,
    segment_context_mask,
    segment_mask,
    segment_positions,
)
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
        self,
        ids: Int[Array, "b t"],
        segments: Int[Array, "b t"] | None = None,
        texts_per_row: int = 1,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "texts d"] | None]:
        """The unimodal half: features of each token and, if there is a [CLS], each text's own.

        Args:
          ids: a text in each row, or several in a row, one after the other.
          segments: the number of each token's text in its row, from 1 on; 0 at padding. None: each
            row has one text.
          texts_per_row: texts of a row, the same in each.
        """
        length, text = ids.shape[1], self.config.text
        if segments is None:
            positions = self.positions[None, :length]
        else:
            positions = self.positions[segment_positions(segments)]
        x = self._embed(ids) + positions.astype(self.dtype)
        if not self.config.has_cls:
            mask = causal_mask(length) if segments is None else segment_mask(segments, 0)
            x, _ = self.unimodal(constrain(x, ACTIVATION), mask)
            return x, None
        cls = (self.cls + self.positions[-1]).astype(self.dtype)
        cls = jnp.broadcast_to(cls, (ids.shape[0], texts_per_row, cls.shape[0]))
        x = constrain(jnp.concatenate([x, cls], axis=1), ACTIVATION)
        if segments is None:
            mask = causal_mask_with_cls(ids != text.pad_id, text.shifted_cls_mask)
        else:
            mask = segment_mask(segments, texts_per_row)
        x, _ = self.unimodal(x, mask)
        cls = jax.lax.slice_in_dim(x, length, None, axis=1)
        return x[:, :length], self.cls_norm(cls.reshape(-1, x.shape[-1]))

    def caption_logits(
        self, features: Float[Array, "b t d"], context: Float[Array, "images n c"]
    ) -> Float[Array, "b t v"]:
        """The multimodal half: float32 logits, position t predicting token t + 1.

        `b / images` consecutive texts are about one image.
        """
        return logits(self.multimodal_features(features, context), self.unembedding())

    def multimodal_features(
        self,
        features: Float[Array, "b t d"],
        context: Float[Array, "images n c"],
        segments: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """The multimodal half up to its last norm; times `unembedding` they are logits.

        With `segments`, each row has images / b texts, whose images follow each other.
        """
        if segments is None:
            x, _ = self.multimodal(features, causal_mask(features.shape[1]), context)
            return self.norm(x)
        rows, count, length = len(features), len(context) // len(features), context.shape[1]
        context = context.reshape(rows, count * length, -1)
        context_mask = segment_context_mask(segments, count, length)
        x, _ = self.multimodal(features, segment_mask(segments, 0), context, context_mask)
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
        x, unimodal = self.unimodal(x, mask, cache=cache.unimodal, position=position)
        x, multimodal = self.multimodal(x, mask, context, cache=cache.multimodal, position=position)
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
            cross_every=text.cross_attention_every if cross else 1,
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
