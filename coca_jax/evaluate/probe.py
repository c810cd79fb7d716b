"""Probes of a frozen image encoder: a linear classifier, or a new pooler, on its features."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.base import LIMIT, PATHS, Evaluation, Examples, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.features import Features
from coca_jax.evaluate.metrics.accuracy import classification_metrics
from coca_jax.fields import (
    UINT32,
    choice,
    either,
    field,
    fields_of,
    integer,
    nothing,
    number,
    several,
    text,
)
from coca_jax.models import PooledClassifier

ROWS = 1024  # examples whose scores are computed at a time
Classify = Callable[[Float[np.ndarray, "b t d"]], Float[np.ndarray, "b classes"]]
Fitted = tuple[Classify, dict[str, float]]
"""A function from tokens [b, t, d] to scores [b, classes]; and further metrics."""

STEPS = {"linear": 300, "pooler": 1000}
OPTIONS = {
    "linear": ("l2", "steps"),
    "pooler": (
        *("num_heads", "steps", "batch_size", "learning_rate"),
        *("weight_decay", "label_smoothing", "seed"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Probe(Evaluation):
    """Trains a small classifier on the features of one data set, and tests it on another's.

    The data that it learns from are the evaluation's own but for what the `train_` options say.
    """

    one_size = True

    train_split: str = field("", "The split to learn from.", text())
    train_path: str | Sequence[str] = field("", "The files to learn from.", PATHS)
    train_limit: int | None = field(
        None, "Only the first examples to learn from, at most this many.", LIMIT
    )
    scoring: str = field(
        "linear",
        "A linear classifier of the mean token, or a new one-query pooler and softmax.",
        choice(*OPTIONS),
    )
    l2: float | int | Sequence[float | int] = field(
        1e-4,
        "Of a linear probe: half of it times the squared weights is added to the loss; of several "
        "penalties, the best on a tenth of the examples is taken.",
        either(number(), several(number(), least=1, wanted="several to try")),
    )
    steps: int | None = field(
        None,
        "Optimizer steps; None: 300 of L-BFGS for a linear probe, 1,000 of AdamW for a pooler.",
        either(nothing(), integer(1)),
    )
    num_heads: int = field(4, "Attention heads of a pooler.", integer(1, 2**16))
    batch_size: int = field(256, "Examples of a pooler's step.", integer(1, 2**24))
    learning_rate: float | int = field(5e-4, "The highest learning rate of a pooler.", number())
    weight_decay: float | int = field(0.01, "Of a pooler.", number())
    label_smoothing: float | int = field(0.2, "Of a pooler.", number(0, 1, below=True))
    seed: int = field(0, "Of a pooler's initial values and batches.", integer(0, UINT32))

    @property
    def train_examples(self) -> Examples:
        """The examples that the probe learns from."""
        return dataclasses.replace(
            self.examples,
            split=self.train_split or self.split,
            path=self.train_path or self.path,
            limit=self.train_limit,
        )

    @property
    def all_examples(self) -> tuple[Examples, ...]:
        """The examples that it is tested on, and those that it learns from."""
        return self.examples, self.train_examples

    def errors(self) -> Iterator[str]:
        """Messages if there is nothing to learn from, or an option belongs to the other probe."""
        if not self.train_split and not self.train_path:
            yield "train_split or train_path should say what the probe learns from"
        own, fields = OPTIONS[self.scoring], fields_of(Probe)
        for name in dict.fromkeys(name for names in OPTIONS.values() for name in names):
            value = getattr(self, name)
            if name not in own and value != fields[name].default:
                yield (
                    f"{name}={value!r} has no effect: scoring={self.scoring!r} has the options "
                    f"{', '.join(own)}"
                )

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Returns what `fit_and_test` does of both data sets' features.

        Raises:
          UserError: the data sets have different classes, or a pooler's heads do not divide the
            width of the features.
        """
        if self.scoring == "pooler":
            _require_heads(self.num_heads, model.config.image.width)  # before features are computed
        train, names = data.of(self.train_examples), data.class_names
        _require_same_classes(train.class_names, names)
        options = {name: getattr(self, name) for name in OPTIONS[self.scoring]}
        options["steps"] = self.steps or STEPS[self.scoring]
        fit = {"linear": fit_linear, "pooler": fit_pooler}[self.scoring]
        return fit_and_test(
            train.features(),
            data.features(),
            names or train.class_names,
            functools.partial(fit, **options),
        )


def _require_heads(num_heads: int, width: int) -> None:
    if width % num_heads:
        raise UserError(f"num_heads={num_heads} should divide the width of the features, {width}")


def _require_same_classes(learned: Sequence[str], tested: Sequence[str]) -> None:
    if not learned or not tested or list(learned) == list(tested):
        return
    pairs = itertools.zip_longest(learned, tested)
    number, (one, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise UserError(
        f"the classes that the probe learns, {len(learned)}, are not the {len(tested)} that it "
        f"is tested on: label {number} is {one!r} and {other!r}"
    )


def fit_and_test(
    train: Features,
    test: Features,
    class_names: Sequence[str],
    fit: Callable[[Features, int], Fitted],
) -> Results:
    """Trains a probe on one data set and tests it on another.

    Args:
      train: features that are learned from.
      test: features of the same classes.
      class_names: of the labels; none: their numbers.
      fit: trains a probe of features for a number of classes.

    Returns:
      Accuracies as of zero-shot classification, top-1 on the training features and, of a linear
      probe, its `l2`; and for the report the confusion counts.

    Raises:
      UserError: a label has no class name.
    """
    most = max(features.labels.max() for features in (train, test))
    class_names = class_names or [str(label) for label in range(most + 1)]
    if most >= len(class_names):
        raise UserError(f"label {most} has no class name: there are {len(class_names)}")
    classify, fit_metrics = fit(train, len(class_names))
    scores = _scores(classify, test)
    metrics, artifacts = classification_metrics(scores, test.labels, class_names, test.bad_images)
    fitted = _scores(classify, train).argmax(axis=1) == train.labels
    metrics |= {"train_top1": float(fitted.mean()), "train_count": float(len(fitted))}
    return metrics | fit_metrics, artifacts


def fit_linear(
    features: Features,
    classes: int,
    l2: float | Sequence[float | int] = 1e-4,
    steps: int = STEPS["linear"],
) -> Fitted:
    """Multinomial logistic regression on the mean token, by L-BFGS on all examples at once.

    As CLIP's linear probe (arXiv 2103.00020, appendix A.3), which tries penalties in the same way.

    Args:
      features: of n examples.
      classes: the number of classes.
      l2: half of it times the squared weights is added to the mean loss; features have mean 0 and
        variance 1 in each dimension. Of several, the one with the highest top-1 on a held-out tenth
        of the examples is taken (of equal ones, the largest), and fitted to all.
      steps: of L-BFGS at most; it ends where the gradient is 0.

    Returns:
      A function from tokens [b, t, d] to scores [b, classes], and the `l2` that was taken.

    Raises:
      UserError: there is no penalty to try.
    """
    means = np.concatenate([_mean_token(part) for part in _parts(features.tokens)])
    center, scale = means.mean(axis=0), means.std(axis=0) + 1e-6
    x = (means - center) / scale
    if isinstance(l2, Sequence):
        l2 = _best_penalty(x, features.labels, classes, l2, steps)
    weights = _minimize(x, features.labels, classes, l2, steps)
    kernel, bias = (np.asarray(weights[name]) for name in ("kernel", "bias"))

    def classify(tokens: Float[np.ndarray, "b t d"]) -> Float[np.ndarray, "b c"]:
        return ((_mean_token(tokens) - center) / scale) @ kernel + bias

    return classify, {"l2": float(l2)}


def fit_pooler(
    features: Features,
    classes: int,
    num_heads: int = 4,
    steps: int = STEPS["pooler"],
    batch_size: int = 256,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.01,
    label_smoothing: float = 0.2,
    seed: int = 0,
) -> Fitted:
    """A new one-query pooler and softmax, by AdamW with a cosine schedule.

    The paper's frozen classification (arXiv 2205.01917, section 4.2) with its learning rate, label
    smoothing and weight decay; it has Adafactor, 200,000 steps of 512, and RandAugment, which
    features that are computed once cannot have.

    Returns:
      A function from tokens [b, t, d] to scores [b, classes], and nothing to report.

    Raises:
      UserError: the heads do not divide the width of the features.
    """
    width = features.tokens.shape[-1]
    _require_heads(num_heads, width)
    head = PooledClassifier(classes, width, num_heads)
    optimizer = optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps),
        weight_decay=weight_decay,
    )
    rng = np.random.default_rng(seed)
    tokens = jnp.zeros((1, 1, *features.tokens.shape[1:]), jnp.float32)
    params = head.init(jax.random.key(seed), tokens)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, tokens: Array, labels: Array) -> tuple[Any, Any]:
        def loss(params: Any) -> Array:
            targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), label_smoothing)
            logits = head.apply(params, tokens[:, None].astype(jnp.float32))
            return optax.softmax_cross_entropy(logits, targets).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        rows = np.sort(rng.integers(len(features.labels), size=batch_size))
        params, state = step(params, state, features.tokens[rows], features.labels[rows])
    apply = jax.jit(lambda tokens: head.apply(params, tokens[:, None].astype(jnp.float32)))
    return lambda tokens: np.asarray(apply(np.asarray(tokens))), {}


def _best_penalty(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    classes: int,
    penalties: Sequence[float],
    steps: int,
) -> float:
    if not penalties:
        raise UserError("l2 is empty; it should be a penalty, or several to try")
    order = np.random.default_rng(0).permutation(len(x))
    held_out, rest = np.split(order, [max(1, len(x) // 10)])

    def top1(l2: float) -> float:
        weights = _minimize(x[rest], labels[rest], classes, l2, steps)
        scores = x[held_out] @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        return float((scores.argmax(axis=1) == labels[held_out]).mean())

    return max(penalties, key=lambda l2: (top1(l2), l2))


@functools.partial(jax.jit, static_argnames=("classes", "steps"))
def _minimize(
    x: Float[Array, "n d"], labels: Int[Array, " n"], classes: int, l2: float | Array, steps: int
) -> dict[str, Array]:
    solver = optax.lbfgs()

    def loss(weights: dict[str, Array]) -> Array:
        logits = x @ weights["kernel"] + weights["bias"][None]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return nats + l2 / 2 * jnp.sum(weights["kernel"] ** 2)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        weights, state, count, _ = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = solver.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=loss
        )
        weights = optax.apply_updates(weights, updates)
        return weights, state, count + 1, optax.tree.norm(gradient)

    weights = {
        "kernel": jnp.zeros((x.shape[1], classes), jnp.float32),
        "bias": jnp.zeros(classes, jnp.float32),
    }
    start = (weights, solver.init(weights), jnp.int32(0), jnp.float32(jnp.inf))
    return jax.lax.while_loop(lambda c: (c[2] < steps) & (c[3] > 1e-6), step, start)[0]


def _scores(classify: Any, features: Features) -> Float[np.ndarray, "n c"]:
    return np.concatenate([np.asarray(classify(part)) for part in _parts(features.tokens)])


def _parts(tokens: np.ndarray) -> list[np.ndarray]:
    return [tokens[i : i + ROWS] for i in range(0, len(tokens), ROWS)]


def _mean_token(tokens: np.ndarray) -> Float[np.ndarray, "b d"]:
    return np.asarray(tokens).mean(axis=1, dtype=np.float32)
