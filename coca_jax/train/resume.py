"""The state that a run goes on from, and what it saves to go on from later."""

import sys
from typing import Any

import jax
import numpy as np

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.processes import say
from coca_jax.config import build, to_json
from coca_jax.errors import UserError
from coca_jax.inference import adapted
from coca_jax.train.data_changes import check_data
from coca_jax.train.experiment import Experiment
from coca_jax.train.frozen import restore_frozen
from coca_jax.train.length import length_changes
from coca_jax.train.state import TrainState


def find_step(experiment: Experiment, store: CheckpointStore) -> int:
    """The step of the newest valid checkpoint, or 0 for a new run.

    Raises:
      UserError: there are checkpoints, but none is valid.
    """
    step = store.latest_valid(report=lambda line: print(line, file=sys.stderr))
    if step is None and store.has_steps():
        raise UserError(
            f"none of the checkpoints in {store.directory} is valid; to start anew, choose "
            "another --workdir or remove them"
        )
    return step or 0


def make_state(experiment: Experiment, store: CheckpointStore, step: int) -> TrainState:
    """The state of a checkpoint; for step 0 a new one, after the warm start if there is one."""
    factory, warm_start = experiment.program.factory, experiment.warm_start
    if step:
        items = store.restore(step, saved_items(factory.abstract))
        replicated = experiment.program.partitioner.replicated
        count = jax.make_array_from_callback((), replicated, lambda _: np.asarray(step, np.int32))
        has_base = adapted.KEY in experiment.records
        frozen = restore_frozen(warm_start, factory.abstract.frozen) if has_base else None
        return TrainState(count, items["params"], items["optimizer"], items.get("ema"), frozen)
    state = factory.create(experiment.config.seed)
    if warm_start is None:
        return state
    say(warm_start.summary())
    return warm_start.apply(state)


def history(experiment: Experiment, store: CheckpointStore, step: int) -> dict[str, Any]:
    """Changes of a run since it began; see `check_data` and `length_changes`.

    Raises:
      UserError: the data changed, and that is not allowed.
    """
    if not 0 < step < experiment.steps:
        return {"data_changes": [], "length_changes": []}
    stored, allow = store.metadata(step), experiment.config.data.allow_changes
    return {
        "data_changes": check_data(stored, step, experiment.data, allow, say),
        "length_changes": length_changes(stored, step, build(experiment.config), say),
    }


def saved_items(state: TrainState) -> dict[str, Any]:
    """The saved parts of a state by name; the checkpoint itself has the step."""
    items = {"params": state.params, "optimizer": state.optimizer, "ema": state.ema}
    return {name: item for name, item in items.items() if item is not None}


def metadata(
    experiment: Experiment,
    step: int,
    changes: dict[str, Any],
    checksums: dict[str, str],
) -> dict[str, Any]:
    """The description of a run that its checkpoints keep.

    Args:
      experiment: the run.
      step: the checkpoint's.
      changes: of the run since it began; see `history`.
      checksums: of the files in the workdir that the model needs, by name.
    """
    return {
        "examples_seen": experiment.examples_seen(step),
        "config": to_json(experiment.config),
        "data": experiment.data,
        **changes,
        **experiment.records,
        "files": checksums,
    }
