"""Parts beside the model, for what comes after pretraining."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from coca_jax.models.poolers import AttentionalPooler


class PooledClassifier(nn.Module):
    """A new one-query pooler over an image's tokens, and a softmax layer over classes.

    As for frozen and for fine-tuned classification in arXiv 2205.01917, section 4.2.
    """

    classes: int
    width: int
    heads: int
    dtype: jnp.dtype = jnp.dtype("float32")  # of the pooler's activations

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n c"]) -> Float[Array, "b classes"]:
        """Logits, float32."""
        pooled = AttentionalPooler(1, self.width, self.heads, self.dtype, name="pooler")(tokens)
        return nn.Dense(self.classes, name="softmax")(pooled[:, 0].astype(jnp.float32))
