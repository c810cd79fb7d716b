"""What a frozen image encoder knows: a linear classifier, or a new pooler, on its features."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.features import Features
from coca_jax.evaluate.zero_shot import judge
from coca_jax.models import PooledClassifier

ROWS = 1024  # of which the scores are computed at a time
Fitted = tuple[Callable[[np.ndarray], np.ndarray], dict[str, float]]
"""From tokens [b, t, d] to scores [b, classes]; and what to report."""


def evaluate(
    train: Features,
    test: Features,
    class_names: Sequence[str],
    by: str = "linear",
    **options: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Trains a probe on the one and tests it on the other.

    Args:
      train: features that are learned from.
      test: features that are judged, of the same classes.
      class_names: of the labels; none: their numbers.
      by: "linear" (`fit_linear`) or "pooler" (`fit_pooler`).
      **options: of the function that fits.

    Returns:
      Accuracies as of zero-shot classification, top-1 on the training features and, of a linear
      probe, its `l2`; and for the report the confusion counts.

    Raises:
      UserError: a label has no class name.
    """
    most = max(features.labels.max() for features in (train, test))
    class_names = class_names or [str(label) for label in range(most + 1)]
    count = len(class_names)
    for features in (train, test):
        if features.labels.max() >= count:
            raise UserError(
                f"label {features.labels.max()} has no class name: there are {len(class_names)}"
            )
    fit = {"linear": fit_linear, "pooler": fit_pooler}[by]
    classify, chosen = fit(train, count, **options)
    scores = _scores(classify, test)
    metrics, artefacts = judge(scores, test.labels, class_names, test.bad_images)
    fitted = _scores(classify, train).argmax(axis=1) == train.labels
    return metrics | {
        "train_top1": float(fitted.mean()),
        "train_count": float(len(fitted)),
        **chosen,
    }, artefacts


def fit_linear(
    features: Features, classes: int, l2: float | Sequence[float] = 1e-4, steps: int = 300
) -> Fitted:
    """Multinomial logistic regression on the mean token, by L-BFGS on all examples at once.

    As CLIP's linear probe (arXiv 2103.00020, appendix A.3), which tries penalties in the same way.

    Args:
      features: of n examples.
      classes: how many there are.
      l2: half of it times the squared weights is added to the mean loss; features have mean 0 and
        variance 1 in each dimension. Of several, the one with the highest top-1 on a held-out tenth
        of the examples is taken (of equal ones, the largest), and fitted to all.
      steps: of L-BFGS at most; it ends where the gradient does.

    Returns:
      A function from tokens [b, t, d] to scores [b, classes], and the `l2` that was taken.

    Raises:
      UserError: there is no penalty to try.
    """
    means = np.concatenate([_mean_token(part) for part in _parts(features.tokens)])
    centre, scale = means.mean(axis=0), means.std(axis=0) + 1e-6
    x = (means - centre) / scale
    if isinstance(l2, Sequence):
        l2 = _best_penalty(x, features.labels, classes, l2, steps)
    weights = _minimise(x, features.labels, classes, l2, steps)
    kernel, bias = (np.asarray(weights[name]) for name in ("kernel", "bias"))

    def classify(tokens: Float[np.ndarray, "b t d"]) -> Float[np.ndarray, "b c"]:
        return ((_mean_token(tokens) - centre) / scale) @ kernel + bias

    return classify, {"l2": float(l2)}


def fit_pooler(
    features: Features,
    classes: int,
    num_heads: int = 4,
    steps: int = 1000,
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
    """
    width = features.tokens.shape[-1]
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
        weights = _minimise(x[rest], labels[rest], classes, l2, steps)
        scores = x[held_out] @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        return float((scores.argmax(axis=1) == labels[held_out]).mean())

    return max(penalties, key=lambda l2: (top1(l2), l2))


@functools.partial(jax.jit, static_argnames=("classes", "steps"))
def _minimise(
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
