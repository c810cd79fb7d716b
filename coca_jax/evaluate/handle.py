"""What an evaluator may ask of a model; evaluators never build, shard or compile one themselves."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

Pixels = UInt8[np.ndarray, "b *several h w 3"] | Float32[np.ndarray, "b *several h w 3"]


@runtime_checkable
class Caption(Protocol):
    """A generated caption."""

    text: str
    log_probability: float
    """Natural logarithm of the text's probability given the image, summed over its tokens."""
    others: Sequence["Caption"]
    """Further ones of the same image, if they were asked for."""


@runtime_checkable
class Handle(Protocol):
    """A model ready for use, for batches of any size.

    Pixels are uint8 images in RGB, or float32 images already normalised.
    """

    def tokenize(self, texts: Sequence[str]) -> Int32[np.ndarray, "b l"]:
        """Returns the token ids of the texts, padded to one length."""
        ...

    def encode_image(self, pixels: Pixels) -> Float[np.ndarray | Array, "b e"]:
        """Returns the images' embeddings, of unit length."""
        ...

    def image_tokens(self, pixels: Pixels) -> Float[np.ndarray | Array, "b t d"]:
        """Returns the image encoder's output: every token of every image."""
        ...

    def encode_text(self, ids: Int32[np.ndarray, "b l"]) -> Float[np.ndarray | Array, "b e"]:
        """Returns the texts' embeddings, of unit length."""
        ...

    def caption(self, pixels: Pixels, **options: Any) -> Sequence[Caption]:
        """Returns one generated caption for each image; options as in `LoadedModel.caption`."""
        ...

    def classify(
        self, pixels: Pixels, texts: str | Sequence[str] = ""
    ) -> Float[np.ndarray | Array, "b c"]:
        """Returns the logits of a head's classes; texts are for one that reads text."""
        ...

    def log_probabilities(
        self, pixels: Pixels, texts: Sequence[str], prompt: str | Sequence[str] = ""
    ) -> Float[np.ndarray | Array, "b k"]:
        """Returns log p(text | image, prompt) of each text for each image, in nats.

        The prompt is one for all images, or one for each.
        """
        ...

    def attention_maps(
        self, pixels: Pixels, texts: Sequence[str]
    ) -> list[list[tuple[str, Float32[np.ndarray, "rows columns"]]]]:
        """Returns for each image the words of its text, each with where attention went for it."""
        ...
