"""CoCa (arXiv 2205.01917): image encoder, attentional poolers and text decoder put together."""

import dataclasses
import math
from collections.abc import Container
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from coca_jax.models.config import CoCaConfig
from coca_jax.models.image_encoder import ImageEncoder, ImageTokens, Pixels
from coca_jax.models.layers import partitioned
from coca_jax.models.matching import Texts, end_of_text, wrong_pairs
from coca_jax.models.poolers import AttentionalPooler
from coca_jax.models.text_decoder import DecoderCache, TextDecoder, logits
from coca_jax.patches import Patches

SIGMOID_INITIAL_BIAS = -10.0  # arXiv 2303.15343, section 3.2


# The fields of `CoCaOutput` that have rows for each example.
PER_EXAMPLE = (
    *("image_embeddings", "text_embeddings", "negative_embeddings"),
    *("features", "class_logits", "matching_logits", "matching_mask"),
)


@struct.dataclass
class CoCaOutput:
    """The outputs that losses read; a field is None where no trained loss reads it.

    All are float32, but for `features` and `unembedding`, which are of the activations' type.
    """

    image_embeddings: Any  # [b, e], unit length
    text_embeddings: Any  # [b, e], unit length
    # [b, t, d]; position t predicts token t + 1. If an example has
    # several images, there is a row for each image.
    features: Any
    unembedding: Any  # [d, v]; features @ unembedding are the logits
    logit_scale: Any  # [], 1 / temperature
    logit_bias: Any  # [], of the sigmoid loss
    class_logits: Any = None  # [b, classes], of a head
    negative_embeddings: Any = None  # [b, e], unit length; of the data's wrong captions
    # [b, n], of the matching head: each pair, its image with a hard negative text, its text with a
    # hard negative image, and, where the data give them, its image with its wrong caption; the mask
    # is False where there is none.
    matching_logits: Any = None
    matching_mask: Any = None

    @property
    def logits(self) -> Any:
        """All logits [b, t, v]; losses of large vocabularies take a few at a time instead."""
        return None if self.unembedding is None else logits(self.features, self.unembedding)

    def only(self, names: Container[str]) -> "CoCaOutput":
        """The output with None in all fields but these."""
        fields = (field.name for field in dataclasses.fields(self))
        return self.replace(**{name: None for name in fields if name not in names})


class CoCa(nn.Module):
    """Contrastive captioner. Only the parts that a trained loss reads exist and are computed."""

    config: CoCaConfig

    def setup(self):
        """Creates the parts."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        pooler, width = config.pooler, config.text.width
        contrastive, multimodal = config.has_cls, config.multimodal
        self.image_encoder = ImageEncoder(config, dtype)

        def make_pooler(queries: int) -> AttentionalPooler:
            return AttentionalPooler(
                queries, width, pooler.num_heads, dtype, pooler.query_norm, config.attention
            )

        if pooler.kind == "shared":
            self.pooler = make_pooler(contrastive + multimodal * pooler.caption_queries)
        else:
            if multimodal and pooler.caption_queries:
                self.caption_pooler = make_pooler(pooler.caption_queries)
            if contrastive:
                self.contrastive_pooler = make_pooler(1)
        if contrastive and config.embed_dim:
            shape, normal = (width, config.embed_dim), nn.initializers.normal(width**-0.5)
            projection = partitioned(normal, "embed", None)
            self.image_projection = self.param("image_projection", projection, shape, jnp.float32)
            self.text_projection = self.param("text_projection", projection, shape, jnp.float32)
        if contrastive:
            scale = nn.initializers.constant(math.log(1 / config.initial_temperature))
            self.logit_scale = self.param("logit_scale", scale, (), jnp.float32)
            if config.contrastive == "sigmoid":
                bias = nn.initializers.constant(SIGMOID_INITIAL_BIAS)
                self.logit_bias = self.param("logit_bias", bias, (), jnp.float32)
        self.decoder = TextDecoder(config, dtype)
        if config.matching_block:
            self.matching_head = nn.Dense(1)

    def __call__(
        self,
        pixels: Pixels,
        ids: Int[Array, "rows t"],
        *,
        segments: Int[Array, "rows t"] | None = None,
        negative_ids: Int[Array, "b t"] | None = None,
        matching_draws: Float[Array, "drawn two g"] | None = None,
    ) -> CoCaOutput:
        """One pass over image-text pairs, computing all that the trained losses need.

        Args:
          pixels: an image for each text.
          ids: a text in each row; or, packed, b / rows texts in each row, one after the other, in
            the order of their images.
          segments: of packed texts, the number of each token's text in its row, from 1 on; 0 at
            padding.
          negative_ids: wrong captions, only padding where a pair has none.
          matching_draws: of hard negatives, see `models.matching`; for a matching head.
        """
        tokens = self.image_encoder(pixels)
        return self._output(tokens, ids, segments, negative_ids, matching_draws)

    def _output(
        self,
        tokens: ImageTokens,
        ids: Int[Array, "b t"],
        segments: Int[Array, "b t"] | None = None,
        negative_ids: Int[Array, "images t"] | None = None,
        matching_draws: Float[Array, "drawn two g"] | None = None,
    ) -> CoCaOutput:
        config = self.config
        image_embeddings = text_embeddings = unembedding = scale = bias = None
        if not config.reads_text:
            return CoCaOutput(None, None, None, None, None, None)
        context = self._context(tokens) if config.multimodal else None
        texts_per_row = 1 if segments is None else len(tokens) // len(ids)
        features, cls = self.decoder.unimodal_features(ids, segments, texts_per_row)
        if config.has_cls:
            image_embeddings = self._image_embedding(tokens, context)
            text_embeddings = self._text_embedding(cls)
            scale = jnp.exp(self.logit_scale)
            bias = self.logit_bias if config.contrastive == "sigmoid" else None
        unimodal = features
        if config.multimodal:
            features = self._multimodal_features(features, context, segments)
        else:
            features = None
        unembedding = self.decoder.unembedding() if config.captioning else None
        output = CoCaOutput(image_embeddings, text_embeddings, features, unembedding, scale, bias)
        negative = None
        if negative_ids is not None:
            negative, cls = self.decoder.unimodal_features(negative_ids)
            output = output.replace(negative_embeddings=self._text_embedding(cls))
        if config.matching_block and (matching_draws is not None or self.is_initializing()):
            texts, wrong = Texts(unimodal, ids), Texts(negative, negative_ids)
            output = self._matched(output, texts, wrong, context, matching_draws)
        return output

    def _matched(
        self,
        output: CoCaOutput,
        texts: Texts,
        wrong: Texts,
        context: Float[Array, "b n d"],
        draws: Float[Array, "rows two g"] | None,
    ) -> CoCaOutput:
        """The output with the matching head's logits of right and wrong pairs."""
        right = end_of_text(output.features, texts.ids, self.config.text.pad_id)
        if draws is None:  # parameters are made by one pair
            return output.replace(matching_logits=self.matching_head(right))
        pairs = wrong_pairs(output, texts, wrong, context, draws, self.config.text.pad_id)
        judged = self.decoder.multimodal_features(pairs.features, pairs.context)
        judged = end_of_text(judged, pairs.ids, self.config.text.pad_id)
        judged = jnp.concatenate(
            [right[:, None], judged.reshape(len(right), -1, right.shape[-1])], axis=1
        )
        logits, exist = self.matching_head(judged)[..., 0], jnp.ones((len(right), 1), bool)
        exist = jnp.concatenate([exist, pairs.exist], axis=1)
        return output.replace(matching_logits=logits, matching_mask=exist)

    def match(
        self, pixels: Float[Array, "images h w c"] | Patches, ids: Int[Array, "b t"]
    ) -> Float[Array, " b"]:
        """The matching head's logits, float32: above 0, an image and a text belong together.

        `b / images` consecutive texts are about one image.
        """
        features, _ = self.decoder.unimodal_features(ids)
        features = self.decoder.multimodal_features(features, self.image_context(pixels))
        return self.matching_head(end_of_text(features, ids, self.config.text.pad_id))[:, 0]

    def _multimodal_features(
        self,
        features: Float[Array, "b t d"],
        context: Float[Array, "images n d2"],
        segments: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "rows t d"]:
        """The decoder's outputs; `images / b` consecutive images belong to one text."""
        if self.config.num_images > 1:
            features = jnp.repeat(features, self.config.num_images, axis=0)
        return self.decoder.multimodal_features(features, context, segments)

    def encode_image(self, pixels: Pixels) -> Float[Array, "b e"]:
        """Image embeddings of unit length, float32."""
        return self._image_embedding(self.image_encoder(pixels))

    def embedding_and_context(
        self, pixels: Pixels
    ) -> tuple[Float[Array, "b e"], Float[Array, "b n d"]]:
        """What `encode_image` and `image_context` return, by one pass of the encoder."""
        tokens = self.image_encoder(pixels)
        context = self._context(tokens)
        return self._image_embedding(tokens, context), context

    def image_tokens(self, pixels: Pixels) -> Float[Array, "b n c2"]:
        """The tokens of an image that the poolers read, padding included, float32."""
        return self.image_encoder(pixels).values.astype(jnp.float32)

    def encode_text(self, ids: Int[Array, "b t"]) -> Float[Array, "b e"]:
        """Text embeddings of unit length, float32."""
        return self._text_embedding(self.decoder.unimodal_features(ids)[1])

    def caption_logits(
        self, pixels: Float[Array, "images h w c"] | Patches, ids: Int[Array, "b t"]
    ) -> Float[Array, "b t v"]:
        """Logits over the vocabulary, float32; position t predicts token t + 1.

        `b / images` consecutive texts are about one image.
        """
        return self.decoder.caption_logits(
            self.decoder.unimodal_features(ids)[0], self.image_context(pixels)
        )

    def image_context(self, pixels: Pixels) -> Float[Array, "b n d"]:
        """The tokens of an image that the decoder's cross-attention reads."""
        return self._context(self.image_encoder(pixels))

    def decode_step(
        self,
        ids: Int[Array, "b t"],
        position: Int[Array, ""],
        cache: DecoderCache,
        context: Float[Array, "images n d"] | None = None,
    ) -> tuple[Float[Array, "b t v"], DecoderCache]:
        """Caption logits of the next tokens, with a cache (see `TextDecoder.decode_step`)."""
        return self.decoder.decode_step(ids, position, cache, context)

    def empty_cache(self, batch: int, length: int) -> DecoderCache:
        """A cache for `batch` captions of at most `length` tokens."""
        return self.decoder.empty_cache(batch, length)

    def _context(self, tokens: ImageTokens) -> Float[Array, "b q d"]:
        pooler = self.config.pooler
        if not pooler.caption_queries:
            return tokens.values
        if pooler.kind == "shared":
            queries = slice(int(self.config.has_cls), None)
            return self.pooler(tokens.values, queries, mask=tokens.mask)
        return self.caption_pooler(tokens.values, mask=tokens.mask)

    def _image_embedding(
        self, tokens: ImageTokens, context: Float[Array, "b q d"] | None = None
    ) -> Float[Array, "b e"]:
        kind = self.config.pooler.kind
        if kind == "shared":
            pooled = self.pooler(tokens.values, slice(1), mask=tokens.mask)
        elif kind == "cascade" and self.config.multimodal:
            pooled = self.contrastive_pooler(self._context(tokens) if context is None else context)
        else:
            pooled = self.contrastive_pooler(tokens.values, mask=tokens.mask)
        embedding = pooled[:, 0]
        if self.config.embed_dim:
            embedding = embedding @ self.image_projection.astype(embedding.dtype)
        return unit_length(embedding)

    def _text_embedding(self, cls: Float[Array, "b d"]) -> Float[Array, "b e"]:
        if self.config.embed_dim:
            cls = cls @ self.text_projection.astype(cls.dtype)
        return unit_length(cls)


def init_params(model: CoCa, key: jax.Array, batch: int = 1) -> Any:
    """New parameters, each boxed with its logical axis names (`flax.linen.meta.unbox`).

    Args:
      model: the model.
      key: of the random values.
      batch: size of the dummy batch that the model is traced with; a mesh must divide it.
    """
    config = model.config
    pixels = jnp.zeros((batch, *config.pixels), jnp.float32)
    ids = jnp.zeros((batch, config.text.context_length), jnp.int32)
    return model.init(key, pixels, ids)["params"]


def unit_length(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """L2-normalizes the last axis in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
