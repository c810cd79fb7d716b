"""One step of training, a pure function of state and batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from coca_jax.data.errors import CUT_TEXT, ERROR_KINDS
from coca_jax.train.gradient import Batch, Metrics, Objective, accumulated_gradient, gradient
from coca_jax.train.state import TrainState

# Several processes must stop after the same step. Each puts into its rows of a batch whether it was
# asked to, and the step's sum of it, under this name, is the same in all.
STOP = "stop"
StepFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    grad_accum_steps: int = 1,
    ema_decay: float = 0.0,
) -> StepFunction:
    """A step that descends the objective, not yet compiled.

    Args:
      objective: model and losses.
      optimizer: from gradients to updates.
      schedule: the learning rate, for the metrics.
      seed: of dropout, of the patches that are left out, and of hard negatives.
      grad_accum_steps: micro-batches; 1 computes the gradient in one pass.
      ema_decay: of the parameters' average, where the state has one.
    """
    compute = gradient
    if grad_accum_steps > 1:
        compute = functools.partial(accumulated_gradient, count=grad_accum_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        of_trained = dataclasses.replace(objective, frozen=state.frozen)
        gradients, metrics = compute(of_trained, state.params, batch, key)
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
        for loss in objective.losses.values():
            params = loss.constrain(params)
        metrics |= {"learning_rate": schedule(state.step), **_norms(gradients)}
        metrics |= {"param_norm": optax.tree.norm(params), **_counters(batch)}
        ema = state.ema
        if ema is not None:
            ema = jax.tree.map(lambda a, p: ema_decay * a + (1 - ema_decay) * p, ema, params)
        return TrainState(state.step + 1, params, optimizer_state, ema, state.frozen), metrics

    return train_step


def _counters(batch: Batch) -> Metrics:
    """Counts of replaced examples and requests to stop, and the share of labeled examples."""
    counts = {
        kind: jnp.sum(batch[kind], dtype=jnp.int32)
        for kind in (*ERROR_KINDS, CUT_TEXT, STOP)
        if kind in batch
    }
    if "label" in batch:
        counts["labeled"] = jnp.mean(batch["label"] >= 0, dtype=jnp.float32)
    return counts


def _norms(gradients: Any) -> Metrics:
    """Norms of the gradient, whole and by top-level part of the model."""
    parts = {f"grad_norm/{name}": optax.tree.norm(part) for name, part in gradients.items()}
    return {"grad_norm": optax.tree.norm(gradients)} | parts
