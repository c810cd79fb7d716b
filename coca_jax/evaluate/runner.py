"""Runs the evaluations that a config names: one model, several data sets and tasks."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.evaluation import OPTIONS as OPTION_FIELDS
from coca_jax.config.kinds import NAME
from coca_jax.config.tree import items
from coca_jax.errors import UserError
from coca_jax.evaluate import (
    captioning,
    classification,
    matching,
    probe,
    retrieval,
    vqa,
    zero_shot,
)
from coca_jax.evaluate.embed import EmbeddedExamples, embed_examples
from coca_jax.evaluate.features import Features
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.prompts import find_templates
from coca_jax.fields import near, shown
from coca_jax.generate import METHODS, Decoding, make_method
from coca_jax.io.files import read_lines

Metrics = dict[str, dict[str, float]]
"""Evaluation name -> metric name -> value; the first metric is the headline."""
Artefacts = dict[str, dict[str, Any]]
"""Evaluation name -> what the report draws; pictures are the bytes of JPEG files."""


@dataclasses.dataclass
class _Inputs:
    """The model and the data, with the embeddings that several evaluations share."""

    handle: Handle
    make_batches: Callable[[ConfigDict], Iterable[dict[str, Any]]]
    class_names: Callable[[ConfigDict], Sequence[str]]
    features: Callable[[ConfigDict], Features] | None
    classes: Sequence[str]  # of the model's head
    embedded: dict[tuple, EmbeddedExamples] = dataclasses.field(default_factory=dict)

    def examples(self, evaluation: ConfigDict) -> EmbeddedExamples:
        key = tuple(str(evaluation.get(key)) for key in DATA_KEYS)
        if key not in self.embedded:
            self.embedded[key] = embed_examples(self.handle, self.make_batches(evaluation))
        return self.embedded[key]


def _zero_shot(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    path = evaluation.get("path", "")
    templates = find_templates(evaluation.get("templates"), path if isinstance(path, str) else "")
    names = inputs.class_names(evaluation)
    if evaluation.get("by", "embeddings") == "captions":
        batches = inputs.make_batches(evaluation)
        return zero_shot.evaluate_by_captions(inputs.handle, batches, names, templates)
    return zero_shot.evaluate(inputs.handle, inputs.examples(evaluation), names, templates)


def _retrieval(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    captions = evaluation.get("captions", "all")
    return retrieval.evaluate(inputs.handle, inputs.examples(evaluation), captions)


def _captioning(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    options = {key: evaluation[key] for key in evaluation if key in OPTIONS["captioning"]}
    return captioning.evaluate(inputs.handle, inputs.make_batches(evaluation), **options)


def _vqa(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    options = {key: evaluation[key] for key in evaluation if key in OPTIONS["vqa"]}
    if evaluation.get("by") == "candidates":
        options["candidates"] = _candidates(inputs, evaluation)
    batches = inputs.make_batches(evaluation)
    return vqa.evaluate(inputs.handle, batches, classes=inputs.classes, **options)


def _candidates(inputs: _Inputs, evaluation: ConfigDict) -> Sequence[str]:
    """Those that are named, or in a file, or all answers of the examples, read once for them."""
    given = evaluation.get("candidates") or ()
    if isinstance(given, str):
        return read_lines(given)
    questions = evaluation.get("questions", vqa.QUESTIONS)
    return given or vqa.all_answers(inputs.make_batches(evaluation), questions)


def _classification(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    questions, batches = evaluation.get("questions", ()), inputs.make_batches(evaluation)
    return classification.evaluate(inputs.handle, batches, inputs.classes, questions)


def _matching(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    options = {key: evaluation[key] for key in evaluation if key in OPTIONS["matching"]}
    return matching.evaluate(inputs.handle, inputs.make_batches(evaluation), **options)


def _probe(inputs: _Inputs, evaluation: ConfigDict) -> tuple[dict, dict]:
    options = {key: evaluation[key] for key in evaluation if key in _options("probe", evaluation)}
    parts = training_part(evaluation), evaluation
    learned, names = (list(inputs.class_names(part)) for part in parts)
    if learned and names and learned != names:
        pairs = itertools.zip_longest(learned, names)
        number, (one, other) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise UserError(
            f"the classes that the probe learns, {len(learned)}, are not the {len(names)} that it "
            f"is tested on: label {number} is {one!r} and {other!r}"
        )
    train, test = map(inputs.features, parts)
    options = {key: value for key, value in options.items() if key not in TRAIN_KEYS}
    return probe.evaluate(train, test, names or learned, **options)


def training_part(evaluation: ConfigDict) -> ConfigDict:
    """The data that a probe learns from: the evaluation's own but for what `train_...` says."""
    keys = ("kind", *DATA_KEYS)
    own = {key: evaluation[key] for key in keys if key in evaluation and key != "limit"}
    return ConfigDict(
        own | {k.removeprefix("train_"): evaluation[k] for k in TRAIN_KEYS if k in evaluation}
    )


# Which examples: as in `data.train`; a limit reads only so many, and so many frames of each.
DATA_KEYS = ("format", "name", "split", "path", "image_keys", "text_keys")
DATA_KEYS += ("class_names", "limit", "num_images")
KINDS = {
    "zero_shot": _zero_shot,
    "retrieval": _retrieval,
    "captioning": _captioning,
    "vqa": _vqa,
    "classification": _classification,
    "matching": _matching,
    "probe": _probe,
}
TRAIN_KEYS = ("train_split", "train_path", "train_limit")
LIMITS = ("length", "min_length", "repetition_penalty")
METHOD_OPTIONS = {f.name for method in METHODS.values() for f in dataclasses.fields(method)}
OPTIONS = {
    "zero_shot": ["templates", "by"],
    "retrieval": ["captions"],
    "captioning": ["method", "prompt", "seed", *LIMITS, *sorted(METHOD_OPTIONS)],
    "classification": ["questions"],
    "matching": ["by", "texts"],
    "vqa": ["by", "candidates", "questions", "method", "seed", *LIMITS, *sorted(METHOD_OPTIONS)],
}
PROBES = {
    "linear": ["l2", "steps"],
    "pooler": [
        *("num_heads", "steps", "batch_size", "learning_rate"),
        *("weight_decay", "label_smoothing", "seed"),
    ],
}
BY = {
    "zero_shot": ("embeddings", "captions"),
    "matching": ("embeddings", "captions"),
    "vqa": ("generation", "candidates", "head"),
    "probe": tuple(PROBES),
}


def run_evaluations(
    handle: Handle,
    evaluations: ConfigDict,
    make_batches: Callable[[ConfigDict], Iterable[dict[str, Any]]],
    class_names: Callable[[ConfigDict], Sequence[str]],
    features: Callable[[ConfigDict], Features] | None = None,
    classes: Sequence[str] = (),
) -> tuple[Metrics, Artefacts]:
    """Runs each evaluation; those on the same examples share one pass over the images.

    Args:
      handle: the model.
      evaluations: name -> {kind, name (of the data set), split, limit, and the kind's options}.
      make_batches: from one of these to its batches: {"image": uint8 [b, h, w, 3], "captions":
        list[list[str]], "label": int [b] (negative: no label), "fields": list[dict]}, every
        example once.
      class_names: from one of these to the names of labels 0, 1, ...; asked for classification.
      features: from one of these to the features of its examples; asked for probes.
      classes: names of those that the model's head tells apart.

    Raises:
      UserError: the config is wrong (see `mistakes`), or its data lack what an evaluation needs.
    """
    if wrong := mistakes(evaluations):
        raise UserError("\n".join(wrong))
    inputs = _Inputs(handle, make_batches, class_names, features, classes)
    metrics, artefacts = {}, {}
    for name, evaluation in evaluations.items():
        try:
            metrics[name], artefacts[name] = KINDS[evaluation.kind](inputs, evaluation)
        except UserError as error:
            raise UserError(f"eval.{name}: {error}") from error
    return metrics, artefacts


def needs(evaluation: ConfigDict) -> str:
    """Which loss a model must have been trained with, for this evaluation; empty: any."""
    if evaluation.kind == "probe":
        return ""
    if evaluation.kind == "classification" or evaluation.get("by") == "head":
        return "classification"
    by_captions = evaluation.kind in ("captioning", "vqa") or evaluation.get("by") == "captions"
    return "captioning" if by_captions else "contrastive"


def takes_frames(evaluation: ConfigDict) -> bool:
    """Whether examples of this evaluation may have several pictures."""
    if needs(evaluation) == "classification":
        return True
    of_embeddings = evaluation.get("by", "embeddings") == "embeddings"
    return evaluation.kind in ("zero_shot", "retrieval", "matching") and of_embeddings


def mistakes(evaluations: Any) -> list[str]:
    """Returns one message for each thing wrong with `config.eval`; none if all is well."""
    found = [
        f"config.eval: {shown(name)} should be {NAME.wanted}"
        for name in items(evaluations)
        if not NAME.holds(name)
    ]
    for name, evaluation in items(evaluations).items():
        found += _mistakes_of(f"config.eval.{name}", evaluation)
    return found


def _mistakes_of(path: str, evaluation: Any) -> list[str]:
    given = items(evaluation)
    if not isinstance(evaluation, ConfigDict):
        return [f"{path}={shown(evaluation)} should be a section with kind and data set"]
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return [f"{path}.kind={shown(kind)} should be one of {', '.join(KINDS)}"]
    known = ["kind", *DATA_KEYS, *_options(kind, given)]
    wrong = {
        key: f"{path}.{key}={shown(given[key])} is unknown; {kind} has {', '.join(known)}"
        + near(key, known, f"{path}.")
        for key in given
        if key not in known
    }
    for key in (
        key for key in known if key in given and not OPTION_FIELDS[key].kind.holds(given[key])
    ):
        wrong[key] = f"{path}.{key}={shown(given[key])} should be {OPTION_FIELDS[key].kind.wanted}"
    fine = {key: value for key, value in given.items() if key not in wrong}
    return [*wrong.values(), *_between_options(path, kind, given, fine)]


def _between_options(
    path: str, kind: str, given: dict[str, Any], fine: dict[str, Any]
) -> Iterator[str]:
    """What is wrong with options together, or with what they name; `fine` are right alone."""
    tfds = fine.get("format", "tfds") == "tfds"
    needed = ["split", *([] if "path" in given else ["name"])] if tfds else ["path"]
    for key in (key for key in needed if not given.get(key)):
        yield (
            f"{path}.{key}={given[key]!r} is empty" if key in given else f"{path}.{key} is missing"
        )
    if fine.get("num_images", 1) != 1 and not takes_frames(ConfigDict({"kind": kind} | fine)):
        yield f"{path}.num_images={fine['num_images']!r}: {kind} takes one image of an example"
    if kind == "probe" and not {"train_split", "train_path"} & set(given):
        yield f"{path} needs train_split or train_path: what the probe learns from"
    if kind in BY and fine.get("by", BY[kind][0]) not in BY[kind]:
        yield f"{path}.by={fine['by']!r} should be one of {', '.join(BY[kind])}"
    try:
        if kind in ("captioning", "vqa"):
            options = {key: fine[key] for key in sorted(METHOD_OPTIONS & set(fine))}
            limits = {key: fine[key] for key in LIMITS if key in fine}
            make_method(fine.get("method", "greedy"), options)
            Decoding(0, 1, 2, **({"length": sys.maxsize} | limits))
        if isinstance(names := fine.get("candidates"), str) and names:
            read_lines(names)
        if kind == "zero_shot":
            find_templates(fine.get("templates"))
    except UserError as error:
        yield f"{path}: {error}"


def _options(kind: str, evaluation: Mapping[str, Any] | ConfigDict) -> list[str]:
    """The keys that an evaluation of this kind may have beside its data."""
    if kind != "probe":
        return OPTIONS[kind]
    return ["by", *TRAIN_KEYS, *PROBES.get(str(evaluation.get("by", "linear")), [])]
