"""The base class of evaluations, and the interface of the models that they use."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8
from ml_collections import ConfigDict

from coca_jax.data.sources import SourceConfig
from coca_jax.fields import either, field, integer, nothing, path, several
from coca_jax.patches import Images, Patches

if TYPE_CHECKING:
    from coca_jax.evaluate.data import EvaluationData

Pixels = UInt8[np.ndarray, "b *several h w 3"] | Float32[np.ndarray, "b *several h w 3"] | Patches
Results = tuple[dict[str, float], dict[str, Any]]
"""Metrics by name, the headline first; and the artifacts that the report draws, where images are
the bytes of JPEG files and `files` holds JSON files of the evaluation's own."""

LOSSES = ("contrastive", "captioning", "classification", "matching")
PATHS = either(path(), several(path(empty=False), least=1))
LIMIT = either(nothing(), integer(1))


@dataclasses.dataclass(frozen=True)
class Examples(SourceConfig):
    """Options that select the examples of an evaluation."""

    path: str | Sequence[str] = field(
        "",
        "Files or URLs of the data set; of WebDataset, Parquet and ArrayRecord one or several, "
        "with `{0000..0099}` and `*`.",
        PATHS,
    )
    limit: int | None = field(None, "Only the first examples, at most this many.", LIMIT)
    num_images: int | None = field(
        None,
        "Images of an example, such as frames of a video; None: `data.num_images`, if the "
        "evaluation takes several.",
        either(nothing(), integer(1, 4096)),
    )


@dataclasses.dataclass(frozen=True)
class Evaluation(Examples, abc.ABC):
    """A task that a model is evaluated on: a section of `config.eval`.

    A subclass is a frozen dataclass: its fields, made by `coca_jax.fields.field`, are its options.
    Registered in `evaluations`, it is run where `config.eval` has a section with its name as
    `kind`.
    """

    requires: ClassVar[str | tuple[str, ...]] = ""
    """The loss that a model must have been trained with, one of LOSSES, or a tuple of several;
    empty: any. It may be a property, where it depends on the options."""
    several_images: ClassVar[bool] = False
    """Whether an example may have several images."""
    reads_text: ClassVar[bool] = False
    """Whether a head is asked about texts, if the evaluation requires one."""

    one_size: ClassVar[bool] = False
    """Whether it needs a model whose images have one size, and so one number of tokens."""

    @property
    def required_losses(self) -> tuple[str, ...]:
        """The losses that `requires` names."""
        names = self.requires
        return tuple(name for name in ([names] if isinstance(names, str) else names) if name)

    @property
    def examples(self) -> Examples:
        """The examples that the model is tested on."""
        return Examples(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Examples)})

    @property
    def all_examples(self) -> tuple[Examples, ...]:
        """All examples that are read; they are opened before anything runs."""
        return (self.examples,)

    def errors(self) -> Iterable[str]:
        """Messages about options that do not go together; each begins with an option's name."""
        return ()

    def conflicts(self, config: ConfigDict) -> Iterable[str]:
        """Messages about options that do not go with the rest of a whole, valid configuration."""
        return ()

    @abc.abstractmethod
    def run(self, model: "Model", data: "EvaluationData") -> Results:
        """Evaluates the model.

        Args:
          model: has what the evaluation requires.
          data: gives the evaluation's examples.

        Raises:
          UserError: the data lack what the evaluation needs.
        """


@runtime_checkable
class Caption(Protocol):
    """A generated caption."""

    text: str
    log_probability: float
    """Natural logarithm of the text's probability given the image, summed over its tokens."""
    others: Sequence["Caption"]
    """Further captions of the same image, if they were asked for."""


@runtime_checkable
class Model(Protocol):
    """A model ready for use, for batches of any size; evaluations never build or compile one.

    Pixels are uint8 images in RGB, or float32 images already normalized.
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
        """Returns the logits of a head's classes; texts are for a head that reads text."""
        ...

    def log_probabilities(
        self, pixels: Pixels, texts: Sequence[str], prompt: str | Sequence[str] = ""
    ) -> Float[np.ndarray | Array, "b k"]:
        """Returns log p(text | image, prompt) of each text for each image, in nats.

        The prompt is one for all images, or one for each.
        """
        ...

    def matching_logits(
        self, pixels: Pixels, texts: Sequence[str] | Sequence[Sequence[str]]
    ) -> Float[np.ndarray | Array, "b k"]:
        """Returns the matching head's logit of each text for each image."""
        ...

    def losses(
        self, losses: Mapping[str, Any], batch: Mapping[str, Images]
    ) -> dict[str, tuple[dict[str, float], int]]:
        """Returns each loss's value and metrics for a batch, and what they are means over."""
        ...

    def attention_maps(
        self, pixels: Pixels, texts: Sequence[str]
    ) -> list[list[tuple[str, Float32[np.ndarray, "rows columns"]]]]:
        """Returns for each image the words of its text, each with where attention went for it."""
        ...
