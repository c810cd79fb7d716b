"""The examples of an evaluation: batches, class names, embeddings and features."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from coca_jax.data.pipeline import Batch, evaluation_batches
from coca_jax.data.sources import Context, Source, SourceConfig, open_source
from coca_jax.data.transforms import multi_image
from coca_jax.data.transforms.images import Resizing
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation, Examples
from coca_jax.evaluate.embed import EmbeddedExamples, embed_examples
from coca_jax.evaluate.features import Features, read_features
from coca_jax.io.files import cache_folder
from coca_jax.patches import filled

BATCH_SIZE = 256
T = TypeVar("T")


class Stopped(Exception):
    """An evaluation was asked to stop before it had all of its examples."""


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """The examples of an evaluation, with the model's predictions for them.

    Sources and embeddings are computed once for all evaluations of the same examples.
    """

    model: Any  # a `LoadedModel`
    config: ConfigDict  # the whole configuration
    examples: Examples  # with `num_images` set
    folder: pathlib.Path  # for features that are not kept
    computed: dict[tuple, Any] = dataclasses.field(default_factory=dict)
    should_stop: Callable[[], bool] = bool  # asked before each batch, by all processes

    def of(self, examples: Examples) -> "EvaluationData":
        """The data of other examples, such as those that a probe learns from."""
        num_images = examples.num_images or self.examples.num_images
        examples = dataclasses.replace(examples, num_images=num_images)
        return dataclasses.replace(self, examples=examples)

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the labels 0, 1, ...; none if the data set has no names."""
        return self._source.class_names

    @property
    def head_classes(self) -> tuple[str, ...]:
        """Names of the classes of the model's head."""
        return tuple(self.config.head.classes)

    def batches(self) -> Iterator[Batch]:
        """Every example once, in order, in batches of one or more examples.

        Each batch has `image`: uint8 [b, h, w, 3], uint8 [b, n, h, w, 3] if examples have several
        images, or `Patches` if images are taken as they are; `captions`, the texts of each example;
        `label` [b], a number, negative where there is none; `labels`, the names of each example's
        classes; `fields`, what else the data set has of each; `index` and `digest`; and
        `bad_image`, the number of further examples whose image could not be read.

        Raises:
          Stopped: `should_stop` was true.
        """
        num_images = self.examples.num_images
        batches = evaluation_batches(
            self._source,
            self.model.config.image.target,
            max(1, BATCH_SIZE // num_images),
            self.examples.limit,
            self.config.data.threads,
            num_images,
            Resizing.of(self.model.config.image),
        )
        for batch in batches:
            if self.should_stop():
                raise Stopped
            yield _blank(batch) if self.config.data.blank_images else batch

    def labeled_batches(self, class_names: Sequence[str] = ()) -> Iterator[Batch]:
        """The batches, with the numbers of labels that are names of classes.

        Args:
          class_names: by default those of the data set.

        Raises:
          UserError: an example's only label is a name that is none of them.
        """
        names = class_names or self.class_names
        for batch in self.batches():
            yield batch | {"label": numbered_labels(batch["label"], batch["labels"], names)}

    def embedded(self) -> EmbeddedExamples:
        """All examples with the embeddings of their images."""
        return self._once("embedded", lambda: embed_examples(self.model, self.batches()))

    def features(self) -> Features:
        """Every token of the image encoder's output, of the examples that have a label."""
        data, source, identity = self.config.data, self._source, self.model.identity
        parts = [identity, data.dir, data.blank_images, source.shards(), source.class_names]
        name = hashlib.sha256(repr([*parts, self.examples]).encode()).hexdigest()[:32]
        # Of parameters that go on changing they would never be read again; and where only a part
        # of the processes had them, the rest would wait for these to encode.
        lasting = identity and jax.process_count() == 1
        folder = cache_folder("features", data.cache_dir) if lasting else self.folder
        return read_features(self.model, self.labeled_batches(), folder / name)

    @property
    def _source(self) -> Source:
        return self._once("source", lambda: open_examples(self.examples, self.config))

    def _once(self, name: str, make: Callable[[], T]) -> T:
        key = name, self.examples
        if key not in self.computed:
            self.computed[key] = make()
        return self.computed[key]


def examples_of(evaluation: Evaluation, config: ConfigDict) -> tuple[Examples, ...]:
    """All examples of an evaluation, each with its number of images."""
    num_images = config.data.num_images if evaluation.several_images else 1
    return tuple(
        dataclasses.replace(examples, num_images=examples.num_images or num_images)
        for examples in evaluation.all_examples
    )


def open_examples(examples: Examples, config: ConfigDict) -> Source:
    """Opens the data set that examples are of.

    Raises:
      UserError: it is not there, or not what its format says.
    """
    data = config.data
    context = Context(data.dir, data.cache_dir, examples.num_images)
    return open_source(SourceConfig.of(examples), context)


def numbered_labels(
    labels: Sequence[int] | Int[np.ndarray, " n"],
    label_names: Sequence[Sequence[str]],
    class_names: Sequence[str],
) -> Int[np.ndarray, " n"]:
    """The labels, with the numbers of those that are the name of a class.

    Args:
      labels: a number of each example; negative: none.
      label_names: the names of each example's classes.
      class_names: of the classes; none: the labels stay as they are.

    Raises:
      UserError: an example's only label is a name that is not among those given; it would pass for
        an example that has no label.
    """
    labels = np.array(labels)
    # Of classes with one name the first, as sources have it.
    numbers = {name: number for number, name in reversed([*enumerate(class_names)])}
    for i, names in enumerate(label_names):
        if not numbers or labels[i] >= 0 or len(names) != 1:
            continue
        if names[0] not in numbers:
            raise UserError(
                f"an example has the label {names[0]!r}, which is none of the "
                f"{len(class_names)} class names: {', '.join(class_names[:5])}, ..."
            )
        labels[i] = numbers[names[0]]
    return labels


def _blank(batch: Batch) -> Batch:
    return batch | {"image": filled(batch["image"], multi_image.GRAY)}
