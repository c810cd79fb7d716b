"""Zero-shot classification: the class whose name, as a text, suits the image best."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from coca_jax.errors import UserError
from coca_jax.evaluate import prompts
from coca_jax.evaluate.base import Evaluation, Model, Results
from coca_jax.evaluate.data import EvaluationData, numbered_labels
from coca_jax.evaluate.embed import NO_EXAMPLES, EmbeddedExamples, embed_texts
from coca_jax.evaluate.metrics.accuracy import classification_metrics
from coca_jax.evaluate.prompts import find_templates
from coca_jax.fields import choice, either, field, nothing, path, several, text

TEMPLATES = dataclasses.replace(
    either(nothing(), several(text(having="{}"), least=1), path(empty=False)),
    description="texts with {} for the class name, or a file of them, or imagenet",
)


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluation):
    """Classifies images by the names of the classes alone."""

    templates: Sequence[str] | str | None = field(
        None,
        "What is said of an image of a class, with {} for the class; or a file of such texts, or "
        "`imagenet`; None: the file next to the data, if there is one, else two short texts.",
        TEMPLATES,
    )
    scoring: str = field(
        "embeddings",
        "By the similarity of embeddings, or by the decoder's probability of the texts.",
        choice("embeddings", "captions"),
    )

    @property
    def requires(self) -> str:
        """The loss that trains what scores."""
        return "captioning" if self.scoring == "captions" else "contrastive"

    @property
    def several_images(self) -> bool:
        """Embeddings of several images are averaged; the decoder reads one image."""
        return self.scoring == "embeddings"

    def errors(self) -> Iterator[str]:
        """A message if the templates cannot be read."""
        try:
            find_templates(self.templates)
        except UserError as error:
            yield f"templates={self.templates!r}: {error}"

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Classifies the examples that have a label (one that is not negative).

        Returns:
          The metrics; and every class's accuracy, and the confusion counts (of up to 64 classes) or
          the pairs of classes that were confused most often.

        Raises:
          UserError: there are no examples, none has a label, there are no class names, or a label
            has none.
        """
        names = data.class_names
        if not names:
            raise UserError(
                "zero-shot classification needs the names of the classes, and the data set has "
                "none: set class_names, a file with a name a line for the labels 0, 1, ..."
            )
        templates = find_templates(self.templates, self.path if isinstance(self.path, str) else "")
        if self.scoring == "captions":
            return classify_by_captions(model, data.labeled_batches(), names, templates)
        examples = data.embedded()
        labels = numbered_labels(examples.labels, examples.label_names, names)
        examples = dataclasses.replace(examples, labels=labels)
        return classify_by_embeddings(model, examples, names, templates)


def classify_by_embeddings(
    model: Model,
    examples: EmbeddedExamples,
    class_names: Sequence[str],
    templates: Sequence[str] = prompts.DEFAULT,
) -> Results:
    """Finds the class whose mean prompt embedding is most similar to the image's embedding."""
    first, same = distinct_prompts(model, class_names, templates)
    classes = class_embeddings(model, [class_names[i] for i in first], templates)
    scores = (examples.images @ classes.T)[:, same]
    return classification_metrics(scores, examples.labels, class_names, examples.bad_images, same)


def classify_by_captions(
    model: Model,
    batches: Iterable[dict[str, Any]],
    class_names: Sequence[str],
    templates: Sequence[str] = prompts.DEFAULT,
) -> Results:
    """Finds the class whose prompts the decoder takes for the most probable captions.

    Of several templates, the probabilities are added up.
    """
    first, same = distinct_prompts(model, class_names, templates)
    texts = class_prompts([class_names[i] for i in first], templates)
    scores, labels, bad = [], [], 0
    for batch in batches:
        nats = np.asarray(model.log_probabilities(batch["image"], texts))
        nats = nats.reshape(len(nats), len(first), len(templates))
        scores.append(np.logaddexp.reduce(nats, axis=-1)[:, same])
        labels.append(np.asarray(batch["label"]))
        bad += batch.get("bad_image", 0)
    if not scores:
        raise UserError(NO_EXAMPLES)
    return classification_metrics(
        np.concatenate(scores), np.concatenate(labels), class_names, bad, same
    )


def distinct_prompts(
    model: Model, class_names: Sequence[str], templates: Sequence[str]
) -> tuple[Int[np.ndarray, " u"], Int[np.ndarray, " c"]]:
    """Finds classes of one name, apart from case and white space, with the same prompt tokens.

    A model cannot tell these apart. (Tokens alone do not say so: prompts may be cut off.)

    Returns:
      The first class of each kind of prompts, and for each class the index of its kind among these.
    """
    names = [" ".join(name.casefold().split()) for name in class_names]
    keys: list[Any] = names
    if len({*names}) < len(names):
        ids = model.tokenize(class_prompts(class_names, templates)).reshape(len(names), -1)
        keys = [(name, row.tobytes()) for name, row in zip(names, ids, strict=True)]
    kinds = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    same = np.array([kinds[key] for key in keys], np.int64)
    return np.unique(same, return_index=True)[1], same


def class_embeddings(
    model: Model, class_names: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "c e"]:
    """Returns one unit vector a class: the mean of its prompts' embeddings, as in CLIP.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4, ensembling in embedding space.
    """
    texts = class_prompts(class_names, templates)
    embeddings = embed_texts(model, texts).reshape(len(class_names), len(templates), -1)
    means = embeddings.mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def class_prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template with the name of the first class, then with that of the second, ..."""
    return [template.replace("{}", name) for name in class_names for template in templates]
