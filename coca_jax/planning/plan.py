"""What a compiled train step needs of each device, and what the configured run costs at least."""

import re
from collections.abc import Mapping
from typing import Any

from coca_jax.errors import UserError
from coca_jax.models import CoCaConfig
from coca_jax.planning.flops import RULE, forward_flops, training_flops
from coca_jax.planning.parameters import parameter_counts
from coca_jax.planning.topologies import GIB, Topology

# Floating-point operations that a policy computes again, in forward passes.
RECOMPUTED = {"none": 0.0, "full": 1.0}


def plan(
    model: CoCaConfig, topology: Topology, compiled: Any, batch_size: int, steps: int
) -> dict[str, Any]:
    """The plan as `coca plan --json` writes it.

    Args:
      model: what is trained.
      topology: on what.
      compiled: the train step, compiled for it.
      batch_size: examples a step.
      steps: of the whole run.

    Returns:
      Bytes of each device, FLOPs, and bounds: no step is faster than its matrix products at the
      devices' peak, those of rematerialisation included, so that `step_seconds` and `days` are at
      least, and `mfu` at most, what is told.
    """
    memory, flops = compiled.memory_analysis(), batch_size * training_flops(model)
    again = RECOMPUTED.get(model.remat, 0.0) * sum(forward_flops(model).values())
    seconds = (flops + batch_size * again) / topology.peak
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "topology": topology.name,
        "chips": topology.chips,
        "devices": len(topology.devices),
        "parameters": sum(parameter_counts(model).values()),
        "bytes_per_chip": {
            "arguments": arguments,
            "temporaries": temporaries,
            "peak": arguments + temporaries + fresh,
            "limit": topology.generation.limit,
        },
        "flops_per_example": training_flops(model),
        "flops_per_step": flops,
        "rule": RULE,
        "step_seconds": seconds,
        "mfu": flops / topology.peak / seconds,
        "days": steps * seconds / 86_400,
        "chip_hours": steps * seconds / 3_600 * topology.chips,
    }


def refusal(error: Exception, topology: Topology) -> UserError | None:
    """What the compiler says of a program that does not fit, in words; None of other errors."""
    found = re.search(r"(?:[Uu]sed|required for HLO temporaries \()\s*([\d.]+)([KMGT])", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or found is None:
        return None
    needed = float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found[2]]
    limit = topology.generation.limit
    return UserError(
        f"the step does not fit: it needs {needed / GIB:.2f} GiB a device and "
        f"{topology.name.partition(':')[0]} has {limit / GIB:.2f}, so {(needed - limit) / GIB:.2f} "
        "are lacking; model.remat=full, a larger mesh.fsdp, a larger train.accumulate or a smaller "
        "train.batch_size take less"
    )


def format_plan(found: Mapping[str, Any]) -> str:
    """The plan as a table of text."""
    held = found["bytes_per_chip"]
    share = held["peak"] / held["limit"]
    rows = {
        "topology": f"{found['topology']}, {found['chips']:,} chips",
        "parameters": f"{found['parameters']:,}",
        **{name: f"{value / GIB:.2f} GiB a device" for name, value in held.items()},
        "fits": f"{share:.0%} of the memory",
        "FLOPs": f"{found['flops_per_step']:.3g} a step ({found['rule']})",
        "step": f"at least {found['step_seconds']:.3g} s, by matrix products alone",
        "MFU": f"at most {found['mfu']:.0%}, since what is computed again does not count",
        "run": f"at least {found['days']:.3g} days, {found['chip_hours']:,.0f} chip hours",
    }
    return "\n".join(f"{name:>12}  {text}" for name, text in rows.items())
