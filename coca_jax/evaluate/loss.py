"""The losses of training on held-out examples: whether a model goes on learning, or overfits."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from coca_jax.config import build
from coca_jax.data.captions import Text
from coca_jax.data.errors import BadExample
from coca_jax.data.examples import BatchMaker, group_ids
from coca_jax.data.from_config import make_held_out_captions
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.fields import either, field, integer, nothing
from coca_jax.losses import trained_losses
from coca_jax.patches import Images, join

Arrays = dict[str, Images]


@dataclasses.dataclass(frozen=True)
class HeldOutLoss(Evaluation):
    """The configured losses, as the train step computes them, without augmentation and dropout.

    Losses that need more than held-out examples have, such as a teacher, are left out. A matching
    head judges the most similar wrong pairs of each block, whereas training draws them: harder ones
    than those of `train/matching_loss` on average.

    Batches are consecutive examples of the data set. A loss that compares the examples of a batch
    with each other depends on its size: it is comparable to that of training where both have one
    size. The last batch may be smaller; it is computed by itself. Each mean is over the whole data
    set: of batches, weighted by the things that the loss is a mean over (pairs, or tokens).
    """

    several_images = True

    batch_size: int | None = field(
        None,
        "Examples of a batch, over all devices; None: `train.batch_size`.",
        either(nothing(), integer(1, 2**24)),
    )

    def conflicts(self, config: ConfigDict) -> Iterator[str]:
        """A message if every trained loss needs more than held-out examples have."""
        trained = trained_losses(build(config).loss)
        if trained and all(loss.training_only for loss in trained.values()):
            yield (
                f"kind='loss': config.loss trains {', '.join(trained)} alone, which has no value "
                "of held-out examples; evaluate by another kind"
            )

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Computes the losses of all examples.

        Returns:
          The weighted sum `loss`, each loss and its metrics by the names that training gives them,
          and the number of examples; there are no artifacts. Losses that only training has are in
          none of them, the sum included.

        Raises:
          UserError: no example has a text, or the model lacks what a configured loss needs.
        """
        config = build(data.config)
        trained = trained_losses(config.loss)
        losses = {name: loss for name, loss in trained.items() if not loss.training_only}
        examples = _Examples(model, data)
        totals: dict[str, dict[str, float]] = {name: {} for name in losses}
        counts = dict.fromkeys(losses, 0)
        for batch in _in_batches(examples, self.batch_size or config.train.batch_size):
            for name, (values, count) in model.losses(losses, batch).items():
                counts[name] += count
                for key, value in values.items():
                    totals[name][key] = totals[name].get(key, 0.0) + count * value
        if not examples.count:
            raise UserError("kind=loss needs examples with a text, and there are none")
        means = {
            name: {key: total / max(counts[name], 1) for key, total in values.items()}
            for name, values in totals.items()
        }
        loss = sum(losses[name].weight * means[name][f"{name}_loss"] for name in losses)
        metrics = {"loss": loss} | {f"{n}_loss": means[n][f"{n}_loss"] for n in losses}
        metrics |= {key: value for values in means.values() for key, value in values.items()}
        metrics |= {"count": float(examples.count), "without_text": float(examples.without_text)}
        return metrics | {"bad_images": float(examples.bad_images)}, {}


class _Examples(Iterable[Arrays]):
    """The examples of an evaluation as arrays that losses read; counts them, and those left out."""

    def __init__(self, model: Model, data: EvaluationData):
        self.count = self.without_text = self.bad_images = 0
        self._data, self._make_caption = data, make_held_out_captions(data.config.data)
        image, text = model.config.image, model.config.text
        self._has_head = model.config.head is not None
        self._maker = BatchMaker(
            (),
            model.tokenizer,
            image_size=image.pixels,
            text_length=text.context_length,
            classes=data.head_classes if self._has_head else (),
            negatives=bool(self._make_caption.negatives),
        )

    def __iter__(self) -> Iterator[Arrays]:
        for batch in self._data.batches():
            self.bad_images += batch.get("bad_image", 0)
            pairs = [(i, text) for i, text in enumerate(self._texts(batch)) if text]
            self.without_text += len(batch["image"]) - len(pairs)
            self.count += len(pairs)
            if pairs:
                rows, texts = zip(*pairs, strict=True)
                inputs = {"image": batch["image"][list(rows)], **self._maker.text_inputs(texts)}
                if self._make_caption.group:
                    inputs["group"] = group_ids([text.group for text in texts])
                yield inputs

    def _texts(self, batch: dict[str, Any]) -> Iterator[Text | None]:
        """The text of each example; None: it has none."""
        names = ("captions", "labels", "label", "fields", "index")
        batch = batch | {"captions": batch.get("stored_captions", batch["captions"])}
        for values in zip(*(batch[name] for name in names), strict=True):
            record = dict(zip(names, values, strict=True))
            record["label"] = int(record["label"])
            # Draws, such as of a prompt for labels, depend on the record alone.
            rng = np.random.default_rng((0, record["index"]))
            try:
                text = self._make_caption(record, 0, rng)
                if self._has_head:
                    self._maker.text_inputs([text])  # raises what is wrong with its label
            except BadExample:
                text = None
            yield text


def _in_batches(parts: Iterable[Arrays], size: int) -> Iterator[Arrays]:
    """The rows of all parts, in batches of `size`; the last one may be smaller."""
    waiting: list[Arrays] = []
    for part in parts:
        waiting.append(part)
        while sum(len(rows["text"]) for rows in waiting) >= size:
            rows = join(waiting)
            yield {name: array[:size] for name, array in rows.items()}
            waiting = [{name: array[size:] for name, array in rows.items()}]
    if rest := [part for part in waiting if len(part["text"])]:
        yield join(rest)
