"""A run whose length changes when it is resumed: what is refused, and what the schedule does."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from coca_jax.checkpoints.metadata import Saved
from coca_jax.config import Config
from coca_jax.errors import UserError
from coca_jax.train.optimizer import make_schedule


def require_length(saved: Saved | None, steps: int) -> None:
    """Makes sure that a run has not done more steps than it is to have.

    Args:
      saved: what the newest checkpoint says of itself; None: nothing was trained yet.
      steps: `config.train.steps`, of the epochs if these were given.

    Raises:
      UserError: names the steps that are done, and the run's length.
    """
    if saved and steps < saved.step:
        length = stored_length(saved.metadata) or saved.step
        raise UserError(
            f"config.train.steps={steps}: the run has done {saved.step} of {length} steps; it may "
            f"be extended or ended early, but cannot go back: set {saved.step} or more"
        )


def length_changes(
    metadata: Mapping[str, Any], step: int, config: Config, say: Callable[[str], None] = print
) -> list[dict[str, int]]:
    """The changes of a run's length since it began; says what a new one does.

    Args:
      metadata: of the checkpoint that the run goes on from.
      step: its step.
      config: of the run now.
      say: called with a line for people.

    Returns:
      {"step", "from", "to"} of each change, which the next checkpoints keep.
    """
    history, steps = list(metadata.get("length_changes") or []), config.train.steps
    before = stored_length(metadata)
    if before is None or before == steps:
        return history
    say(_explained(config, step, before))
    return [*history, {"step": step, "from": before, "to": steps}]


def _explained(config: Config, step: int, before: int) -> str:
    """A sentence on the learning rate of a run that goes on to another length."""
    optimizer, steps = config.optimizer, config.train.steps
    verb = "extended" if steps > before else "shortened"
    text = f"{verb} from {before:,} to {steps:,} steps at step {step:,}"
    old, new = make_schedule(optimizer, before), make_schedule(optimizer, steps)
    # Step n is the update of the optimizer's count n - 1.
    last, due, rate = float(old(step - 1)), float(old(step)), float(new(step))
    if _equal_after(step, old, new, steps):
        return f"{text}: the {optimizer.schedule} schedule goes on, learning rate {rate:.4g}"
    text = f"{text}: the {optimizer.schedule} schedule is now that of {steps:,} steps, and the"
    if rate == due:
        return f"{text} learning rate, {rate:.4g} at step {step + 1:,} as before, differs later"
    return (
        f"{text} learning rate jumps: {last:.4g} at step {step:,}, {rate:.4g} at step {step + 1:,} "
        f"(before: {due:.4g})"
    )


def _equal_after(step: int, old: optax.Schedule, new: optax.Schedule, steps: int) -> bool:
    """Whether the schedules agree from a step on, at up to 10,000 steps of the new length."""
    counts = np.unique(np.linspace(step, max(step, steps - 1), 10_000, dtype=np.int32))
    return bool(jnp.all(jax.vmap(old)(counts) == jax.vmap(new)(counts)))


def stored_length(metadata: Mapping[str, Any]) -> int | None:
    """The steps of the run that a checkpoint is of; None: its metadata do not say."""
    try:
        return int(metadata["config"]["train"]["steps"])
    except (KeyError, TypeError, ValueError):
        return None
