"""Actions of one process for all processes of a run."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from coca_jax.errors import UserError


def by_first(action: Callable[[], int | None]) -> int:
    """Runs something in process 0 alone; all processes call this, and all fail if it fails.

    Returns:
      The number that it returned in process 0, which fits 32 bits; 0 for None.

    Raises:
      UserError: in the other processes, where it failed; in process 0 what it raised.
    """
    value, failure = 0, None
    if jax.process_index() == 0:
        try:
            value = action() or 0
        except Exception as error:  # the packages of stores have errors of their own
            failure = error
    outcome = multihost_utils.broadcast_one_to_all(np.array([value, failure is not None], np.int32))
    if outcome[1]:
        raise failure or UserError("process 0 failed, and says why")
    return int(outcome[0])


def in_any(here: bool) -> bool:
    """Whether something is so in at least one process; all processes call this."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


def say(text: str) -> None:
    """Prints a text once for all processes."""
    if jax.process_index() == 0:
        print(text)
