"""Evaluations as a configuration names them, on the data that it names."""

import dataclasses
import hashlib
import pathlib
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from coca_jax.data.from_config import check_classes
from coca_jax.data.pipeline import Batch, evaluation_batches
from coca_jax.data.sources import Context, Source, SourceConfig, open_source, warn_of_lost
from coca_jax.data.transforms import multi_image
from coca_jax.errors import UserError
from coca_jax.evaluate.features import Features, read_features
from coca_jax.evaluate.runner import (
    DATA_KEYS,
    Artefacts,
    Metrics,
    needs,
    run_evaluations,
    takes_frames,
    training_part,
)
from coca_jax.inference import LoadedModel
from coca_jax.io.files import cache_folder
from coca_jax.models import CoCaConfig

BATCH_SIZE = 256


def possible(config: ConfigDict, model: CoCaConfig) -> ConfigDict:
    """The evaluations of `config.eval` that need no part which the model was not trained with.

    Raises:
      UserError: one of them needs a head, and the model has none or another.
    """
    lacking = {"contrastive": not model.has_cls, "captioning": not model.captioning}
    for name, evaluation in config.eval.items():
        if needs(evaluation) == "classification":
            _require_head(name, config, model)
    return ConfigDict({n: e for n, e in config.eval.items() if not lacking.get(needs(e))})


def require(config: ConfigDict, model: CoCaConfig) -> None:
    """Makes sure that there is an evaluation which the model can do.

    Raises:
      UserError: there is none; names what each of them needs.
    """
    if not possible(config, model):
        wrong = [
            f"config.eval.{name} needs a model that was trained with the {needs(e)} loss"
            for name, e in config.eval.items()
        ]
        raise UserError("\n".join(wrong))


def missing(config: ConfigDict, model: CoCaConfig, done: Container[str]) -> ConfigDict:
    """The evaluations that are possible and not done yet.

    Args:
      config: the whole configuration.
      model: the model's.
      done: names of those that are.
    """
    found = possible(config, model)
    return ConfigDict({name: e for name, e in found.items() if name not in done})


def _require_head(name: str, config: ConfigDict, model: CoCaConfig) -> None:
    """Raises a UserError unless the model has the head that the evaluation needs."""
    here, head = len(config.head.classes), model.head
    evaluation, where = config.eval[name], f"config.eval.{name}"
    num_images = evaluation.get("num_images", config.data.num_images)
    reads_text = evaluation.kind == "vqa" or "questions" in evaluation
    if head is None:
        wrong = "needs a head, and the model has none: config.loss.classification.weight trains one"
    elif here != head.classes:
        wrong = f"config.head.classes are {here}, and the model's head has {head.classes}"
    elif num_images != head.num_images:
        wrong = (
            f"has {num_images} pictures of an example, and the model's head reads {head.num_images}"
        )
    elif reads_text and head.input == "image":
        wrong = "asks questions, and the model's head reads images alone (config.head.input)"
    elif not reads_text and head.input == "text":
        wrong = "needs `questions`, the fields with the texts that the model's head reads"
    else:
        return
    raise UserError(f"{where}: {wrong}")


def _blank(batch: Batch) -> Batch:
    return batch | {"image": np.full_like(batch["image"], multi_image.GRAY)}


def _open(evaluation: ConfigDict, config: ConfigDict) -> Source:
    num_images = _usual_frames(evaluation, config)
    context = Context(
        config.data.dir, config.data.cache_dir, evaluation.get("num_images", num_images)
    )
    return open_source(SourceConfig.of(evaluation), context)


def _usual_frames(evaluation: ConfigDict, config: ConfigDict) -> int:
    return config.data.num_images if takes_frames(evaluation) else 1


def check(config: ConfigDict) -> None:
    """Opens the data of every evaluation, so that a mistake does not wait for the first of them.

    What is lost of them is told on standard error, once for all processes.

    Raises:
      UserError: names each evaluation whose data set or split cannot be opened, and why.
    """
    wrong = []
    for name, evaluation in config.eval.items():
        try:
            parts = [evaluation]
            if evaluation.kind == "probe":
                parts.append(training_part(evaluation))
            for part in parts:
                source = _open(part, config)
                if jax.process_index() == 0:
                    warn_of_lost(f"config.eval.{name}", source)
        except UserError as error:
            wrong.append(f"config.eval.{name}: {error}")
    if wrong:
        raise UserError("\n".join(wrong))


def evaluate(
    handle: LoadedModel, config: ConfigDict, evaluations: ConfigDict | None = None
) -> tuple[Metrics, Artefacts]:
    """Runs everything in `config.eval` that the model has the parts for.

    Args:
      handle: the model.
      config: the whole configuration.
      evaluations: some of `possible(config, model)`; None: all of them.

    Returns:
      Metrics by evaluation, and what the report draws of them.

    Raises:
      UserError: an evaluation needs a head, and the model has none or another.
    """
    if evaluations is None:
        evaluations = possible(config, handle.config)
        for name in (name for name in config.eval if name not in evaluations):
            print(f"eval.{name} is left out: the model was not trained for it", file=sys.stderr)
    if handle.classes and config.head.classes and handle.classes != tuple(config.head.classes):
        raise UserError(
            "config.head.classes are not those that the model's head was trained with: "
            f"{', '.join(handle.classes[:5])}, ..."
        )
    with tempfile.TemporaryDirectory() as temporary:
        data = _Data(handle, config, pathlib.Path(temporary))
        return run_evaluations(
            handle,
            evaluations,
            data.batches,
            data.class_names,
            data.features,
            tuple(config.head.classes),
        )


@dataclasses.dataclass(frozen=True)
class _Data:
    """The data of evaluations; what several of them read is opened once."""

    handle: LoadedModel
    config: ConfigDict
    temporary: pathlib.Path  # a folder for features that are not kept
    opened: dict[tuple, Source] = dataclasses.field(default_factory=dict)

    def batches(self, evaluation: ConfigDict) -> Iterable[Batch]:
        config, source = self.config, self._source(evaluation)
        num_images = evaluation.get("num_images", _usual_frames(evaluation, config))
        found = evaluation_batches(
            source,
            self.handle.config.image.pixels,
            max(1, BATCH_SIZE // num_images),
            evaluation.get("limit"),
            config.data.threads,
            num_images,
        )
        found = map(_blank, found) if config.data.blank_images else found
        if "questions" in evaluation:
            return found
        if evaluation.kind == "classification":
            check_classes("its data", source.class_names, config.head.classes)
        by_label = evaluation.kind in ("zero_shot", "classification", "probe")
        return _with_known_classes(found, self.class_names(evaluation)) if by_label else found

    def class_names(self, evaluation: ConfigDict) -> Sequence[str]:
        head = self.config.head.classes if evaluation.kind == "classification" else ()
        return self._source(evaluation).class_names or head

    def features(self, evaluation: ConfigDict) -> Features:
        data, source, identity = self.config.data, self._source(evaluation), self.handle.identity
        parts = [identity, data.dir, data.blank_images, source.shards(), source.class_names]
        parts += [str(evaluation.get(key)) for key in DATA_KEYS]
        name = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        # Of parameters that go on changing they would never be read again; and where only some of
        # several processes had them, the others would wait for these to encode.
        lasting = identity and jax.process_count() == 1
        kept = cache_folder("features", data.cache_dir) if lasting else self.temporary
        return read_features(self.handle, self.batches(evaluation), kept / name)

    def _source(self, evaluation: ConfigDict) -> Source:
        key = tuple(str(evaluation.get(key)) for key in DATA_KEYS)
        if key not in self.opened:
            self.opened[key] = _open(evaluation, self.config)
        return self.opened[key]


def _with_known_classes(batches: Iterable[Batch], class_names: Sequence[str]) -> Iterator[Batch]:
    """The batches, with the numbers of labels that are the name of a class.

    Raises:
      UserError: an example's only label is a name that is not among those given; it would pass for
        an example that has no label.
    """
    # Of classes with one name the first, as sources have it.
    numbers = {name: number for number, name in reversed([*enumerate(class_names)])}
    for batch in batches:
        labels = np.array(batch["label"])
        for i, names in enumerate(batch["labels"]):
            if not numbers or labels[i] >= 0 or len(names) != 1:
                continue
            if names[0] not in numbers:
                raise UserError(
                    f"an example has the label {names[0]!r}, which is none of the "
                    f"{len(class_names)} class names: {', '.join(class_names[:5])}, ..."
                )
            labels[i] = numbers[names[0]]
        yield batch | {"label": labels}
