"""Whether a run reads the data that it read before, in all its processes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from coca_jax.checkpoints.metadata import Saved
from coca_jax.data.fingerprint import Fingerprint, changes, digest, parse
from coca_jax.errors import UserError
from coca_jax.train.length import stored_length


def require_same_data(data: Fingerprint) -> None:
    """Makes sure that all processes read the same data.

    Raises:
      UserError: in every process, if one of them reads other data than process 0.
    """
    if jax.process_count() == 1:
        return
    digests = multihost_utils.process_allgather(np.uint32(digest(data)))
    others = np.flatnonzero(digests != digests[0]).tolist()
    if others:
        here = ", ".join(
            f"config.{name} has {len(shards):,} shards with {sum(s.records for s in shards):,} "
            "records"
            for name, shards in data.items()
        )
        names = ", ".join(map(str, others[:8]))
        they = f"process {names} reads" if len(others) == 1 else f"processes {names} read"
        raise UserError(
            f"{they} other data than process 0; give all of them the same files "
            f"(in process {jax.process_index()} {here})"
        )


def stored_steps(saved: Saved | None, data: Fingerprint) -> int | None:
    """The steps of the run that a checkpoint is of, if its data ever changed; else None.

    A length in epochs would give other steps now, and so another schedule.
    """
    before = parse(saved.metadata.get("data")) if saved else None
    if before is None or not (saved.metadata.get("data_changes") or changes(before, data)):
        return None
    return stored_length(saved.metadata)


def check_data(
    metadata: Mapping[str, Any],
    step: int,
    data: Fingerprint,
    allow: bool,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Refuses to resume with data that changed since a checkpoint, unless that is allowed.

    Args:
      metadata: the checkpoint's.
      step: its step.
      data: what would be read now.
      allow: `config.data.allow_changes`.
      say: called with a line for people.

    Returns:
      The changes since the run began, which the next checkpoints keep: {"step", "changes"} each.

    Raises:
      UserError: names what changed.
    """
    history = list(metadata.get("data_changes") or [])
    before = parse(metadata.get("data"))
    if before is None:
        say(f"step {step} was saved without a fingerprint of its data; the next one has it")
        return history
    changed = changes(before, data)
    if not changed:
        return history
    lines = "\n  ".join(changed)
    if not allow:
        raise UserError(
            f"the data have changed since step {step} was saved: examples would come in another "
            f"order, some again and some never\n  {lines}\nput them back, or resume "
            "with --config.data.allow_changes=True"
        )
    say(f"the data have changed since step {step} was saved\n  {lines}")
    return [*history, {"step": step, "changes": changed}]
