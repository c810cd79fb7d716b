"""One step of training, a pure function of state and batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from coca_jax.accelerators import compiler_options
from coca_jax.data.errors import ERROR_KINDS
from coca_jax.distributed import Partitioner
from coca_jax.errors import UserError
from coca_jax.losses import trained_losses
from coca_jax.models import CoCa
from coca_jax.train.gradient import (
    Batch,
    Metrics,
    Objective,
    accumulated_gradient,
    gradient,
)
from coca_jax.train.optimizer import trained_parameters
from coca_jax.train.quantization import quantized
from coca_jax.train.signals import STOP
from coca_jax.train.state import TrainState

StepFunction = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    model: CoCa,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: ConfigDict,
) -> StepFunction:
    """The step that `config` describes, not yet compiled.

    Raises:
      UserError: it needs a package that is not installed.
    """
    model = quantized(model, config.train.quantization)
    losses, rates = trained_losses(config.loss), config.optimizer.learning_rates
    compute, count = gradient, config.train.grad_accum_steps
    if count > 1:
        compute = functools.partial(accumulated_gradient, count=count)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        objective = Objective(model, losses, trained_parameters(state.params, rates))
        gradients, metrics = compute(objective, state.params, batch, key)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        for loss in losses.values():
            params = loss.constrain(params)
        metrics |= {"learning_rate": schedule(state.step), **_norms(gradients)}
        metrics |= {"param_norm": optax.tree.norm(params)}
        if "label" in batch:
            # Of which a head learns.
            metrics["labelled"] = jnp.mean(batch["label"] >= 0, dtype=jnp.float32)
        metrics |= {
            kind: jnp.sum(batch[kind], dtype=jnp.int32)
            for kind in (*ERROR_KINDS, STOP)
            if kind in batch
        }
        ema = state.ema
        if ema is not None:
            decay = config.optimizer.ema_decay
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)
        return TrainState(state.step + 1, params, optimizer_state, ema), metrics

    return train_step


def trace_train_step(
    step: StepFunction, state: TrainState, batch: Any, partitioner: Partitioner
) -> Any:
    """Traces it; the state that goes in will be given up for the one that comes out.

    Args:
      step: from `make_train_step`.
      state: shapes with shardings, or arrays.
      batch: likewise.
      partitioner: mesh and rules.

    Returns:
      What `jax.jit(...).trace(...)` does: the program as `jaxpr`, and `lower()`.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, partitioner.replicated))
    with partitioner.context():
        return jitted.trace(state, batch)


def compile_train_step(
    step: StepFunction,
    state: TrainState,
    batch: Any,
    partitioner: Partitioner,
    options: Sequence[tuple[str, Any]] = (),
) -> StepFunction:
    """Compiles ahead of time what `trace_train_step` traces, of the same arguments.

    Args:
      step: likewise.
      state: likewise.
      batch: likewise.
      partitioner: likewise.
      options: `config.compiler_options`.

    Raises:
      UserError: the compiler does not know an option, or refuses its value.
    """
    traced = trace_train_step(step, state, batch, partitioner)
    return compile_traced(traced, partitioner, options)


def compile_traced(
    traced: Any, partitioner: Partitioner, options: Sequence[tuple[str, Any]]
) -> StepFunction:
    """The second half of `compile_train_step`."""
    given = compiler_options(partitioner.mesh.devices.flat[0], options)
    try:
        with partitioner.context():
            return traced.lower().compile(given)
    except RuntimeError as error:  # the compiler's
        if "INVALID_ARGUMENT" in str(error) and "option" in str(error):
            raise UserError(f"config.compiler_options: {error}") from error
        raise


def _norms(gradients: Any) -> Metrics:
    """Norms of the gradient, whole and by top-level part of the model."""
    parts = {f"grad_norm/{name}": optax.tree.norm(part) for name, part in gradients.items()}
    return {"grad_norm": optax.tree.norm(gradients)} | parts
