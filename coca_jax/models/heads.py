"""Classifiers on top of the model, for tasks that come after pretraining."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from coca_jax.models.coca import CoCa, CoCaOutput
from coca_jax.models.config import CoCaConfig
from coca_jax.models.image_encoder import ImageTokens
from coca_jax.models.poolers import AttentionalPooler
from coca_jax.patches import Patches


class PooledClassifier(nn.Module):
    """A new one-query pooler over tokens, and a softmax layer over classes.

    As in arXiv 2205.01917, section 4.2: of an image's tokens for classification, of all frames' for
    video, of the decoder's outputs for question answering and entailment; for reasoning about two
    images each one's is pooled, and the results are joined.
    """

    classes: int
    width: int
    num_heads: int
    dtype: jnp.dtype = jnp.dtype("float32")  # of the pooler's activations
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b groups n c"],
        mask: Bool[Array, "b groups n"] | None = None,
    ) -> Float[Array, "b classes"]:
        """Logits, float32, of what is pooled of each group, joined.

        Args:
          tokens: by groups.
          mask: which of them may be read; all by default.
        """
        batch, groups = tokens.shape[:2]
        if mask is not None:
            mask = mask.reshape(-1, *mask.shape[2:])
        pooler = AttentionalPooler(
            1, self.width, self.num_heads, self.dtype, attention=self.attention, name="pooler"
        )
        pooled = pooler(tokens.reshape(-1, *tokens.shape[2:]), mask=mask)
        joined = pooled.reshape(batch, groups * self.width).astype(jnp.float32)
        return nn.Dense(self.classes, name="softmax")(joined)


class CoCaClassifier(CoCa):
    """CoCa with a classifier: CoCa's parameters, and those of the `head`."""

    def setup(self):
        """Creates the parts."""
        super().setup()
        config, head = self.config, self.config.head
        width = config.text.width if head.input == "text" else config.image.width
        dtype = jnp.dtype(config.dtype)
        self.head = PooledClassifier(
            head.classes, width, config.pooler.num_heads, dtype, config.attention
        )
        if head.input == "image" and head.num_images > 1:
            # The paper's pooler knows no order of frames; from zeros this begins as it does.
            shape = (head.num_images, width)
            self.head_image_positions = self.param(
                "head_image_positions", nn.initializers.zeros, shape, jnp.float32
            )

    def __call__(
        self,
        pixels: Float[Array, "b *num h w c"] | Patches,
        ids: Int[Array, "b t"],
        *,
        prefix_length: Int[Array, " b"] | None = None,
        negative_ids: Int[Array, "b t"] | None = None,
        matching_draws: Float[Array, "rows two g"] | None = None,
    ) -> CoCaOutput:
        """One pass over examples: what the trained losses need.

        Args:
          pixels: of one image, or of `head.num_images` images.
          ids: texts.
          prefix_length: how many tokens of its text the head may read; None: all but padding.
          negative_ids: as of `CoCa`.
          matching_draws: as of `CoCa`.
        """
        tokens = self._tokens(pixels)
        output = self._output(tokens, ids, negative_ids=negative_ids, matching_draws=matching_draws)
        return output.replace(
            class_logits=self._classify(tokens, output.features, ids, prefix_length)
        )

    def classify(
        self,
        pixels: Float[Array, "b *num h w c"] | Patches,
        ids: Int[Array, "b t"],
        prefix_length: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b classes"]:
        """Logits of the classes, float32; a head that reads the image ignores the texts."""
        tokens, features = self._tokens(pixels), None
        if self.config.head.input == "text":
            features = self._multimodal_features(
                self.decoder.unimodal_features(ids)[0], self._context(tokens)
            )
        return self._classify(tokens, features, ids, prefix_length)

    def _tokens(self, pixels: Float[Array, "b *num h w c"] | Patches) -> ImageTokens:
        if not isinstance(pixels, Patches):
            pixels = pixels.reshape(-1, *pixels.shape[-3:])
        return self.image_encoder(pixels)

    def _classify(
        self,
        tokens: ImageTokens,
        features: Float[Array, "images t d"] | None,
        ids: Int[Array, "b t"],
        prefix_length: Int[Array, " b"] | None,
    ) -> Float[Array, "b classes"]:
        images = self.config.num_images
        if self.config.head.input == "image":
            values, mask = tokens.values, tokens.mask
            values = values.reshape(-1, images, *values.shape[1:])
            if images > 1:
                values = values + self.head_image_positions[None, :, None].astype(values.dtype)
            values = values.reshape(values.shape[0], 1, -1, values.shape[-1])
            return self.head(values, None if mask is None else mask[:, None])
        if prefix_length is None:
            mask = ids != self.config.text.pad_id
        else:
            mask = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] < prefix_length[:, None]
        mask = jnp.repeat(mask[:, None], images, axis=1)
        return self.head(features.reshape(-1, images, *features.shape[1:]), mask)


def make_model(config: CoCaConfig) -> CoCa:
    """The model that is described, with a classifier if it has one."""
    return CoCa(config) if config.head is None else CoCaClassifier(config)
