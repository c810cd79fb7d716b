"""The processor cores of this process."""

import os


def available_cores() -> int:
    """The number of cores that SLURM, `taskset` or the machine lets this process use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1
