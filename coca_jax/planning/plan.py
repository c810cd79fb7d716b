"""What a compiled train step needs of each device, and what the configured run costs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coca_jax.errors import UserError
from coca_jax.models import CoCaConfig
from coca_jax.planning.flops import RULE, training_flops
from coca_jax.planning.hlo import Collective
from coca_jax.planning.parameters import parameter_counts
from coca_jax.planning.roofline import roofline
from coca_jax.planning.topologies import GIB, GPUS, Topology


class Step(NamedTuple):
    """What is known of a train step, compiled or estimated, for devices that need not be there."""

    held: dict[str, int]  # bytes of what a device is given, by part
    arguments: int  # bytes of it as the compiler lays it out
    temporaries: int  # bytes, those of results included that take no argument's place
    hardware_flops: int  # of a step, on all devices, what is computed again included
    traffic: int  # bytes between a device and its memory
    collectives: Sequence[Collective]
    devices: Sequence[Any]  # in the order of the mesh
    estimated: bool = False


def plan(
    model: CoCaConfig, topology: Topology, step: Step, batch_size: int, steps: int
) -> dict[str, Any]:
    """The plan as `coca plan --json` writes it.

    Args:
      model: what is trained.
      topology: on what.
      step: compiled or estimated for it.
      batch_size: examples a step.
      steps: of the whole run.

    Returns:
      Bytes of each device, FLOPs, exchanges between devices, and a roofline of the step:
      `step_seconds`, `mfu` and `days` if its terms overlap fully; `..._without_overlap` if not.
    """
    flops, peak = batch_size * training_flops(model), step.arguments + step.temporaries
    terms, collectives = roofline(
        step.hardware_flops, step.traffic, step.collectives, topology, step.devices
    )
    seconds, serial = max(terms.values()), sum(terms.values())
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "devices": len(topology.devices),
        "parameters": sum(parameter_counts(model).values()),
        "bytes_per_chip": {
            "arguments": step.arguments,
            "temporaries": step.temporaries,
            "peak": peak,
            "limit": topology.generation.limit,
        },
        # Arrays are padded to tiles in memory, which belongs to no part.
        "bytes_by_part": step.held
        | {"temporaries": step.temporaries, "padding": step.arguments - sum(step.held.values())},
        "estimated": step.estimated,
        "flops_per_example": training_flops(model),
        "flops_per_step": flops,
        "hardware_flops_per_step": step.hardware_flops,
        "rule": RULE,
        "collectives": collectives,
        "seconds_by_term": terms,
        "step_seconds": seconds,
        "step_seconds_without_overlap": serial,
        "mfu": flops / topology.peak / seconds,
        "mfu_without_overlap": flops / topology.peak / serial,
        "days": steps * seconds / 86_400,
        "chip_hours": steps * seconds / 3_600 * topology.chips,
    }


class OutOfMemory(UserError):
    """A program that does not fit, and how many bytes it would take of a device."""

    def __init__(self, needed: float, topology: Topology):
        self.needed, limit = needed, topology.generation.limit
        super().__init__(
            f"the step does not fit: it needs {needed / GIB:.2f} GiB a device and "
            f"{topology.name.partition(':')[0]} has {limit / GIB:.2f}, so "
            f"{(needed - limit) / GIB:.2f} are lacking"
        )


def refusal(error: Exception, topology: Topology) -> OutOfMemory | None:
    """What the compiler says of a program that does not fit, in words; None of other errors."""
    found = re.search(r"(?:[Uu]sed|required for HLO temporaries \()\s*([\d.]+)([KMGT])", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or found is None:
        return None
    return OutOfMemory(
        float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found[2]], topology
    )


def format_plan(found: Mapping[str, Any]) -> str:
    """The plan as a table of text."""
    held, slices = found["bytes_per_chip"], found["slices"]
    kind = "machines" if found["topology"].partition(":")[0] in GPUS else "slices"
    where = f"{found['topology']}, {slices} {kind}" if slices > 1 else found["topology"]
    terms = ", ".join(
        f"{name.replace('_', ' ')} {seconds:.3g} s"
        for name, seconds in found["seconds_by_term"].items()
        if seconds
    )
    rows = {
        "topology": f"{where}, {found['chips']:,} chips",
        **({"estimated": "memory, traffic and exchanges"} if found["estimated"] else {}),
        "parameters": f"{found['parameters']:,}",
        **{name: f"{value / GIB:.2f} GiB a device" for name, value in held.items()},
        "fits": f"{held['peak'] / held['limit']:.0%} of the memory",
        "FLOPs": f"{found['flops_per_step']:.3g} a step ({found['rule']})",
        "executed": f"{found['hardware_flops_per_step']:.3g} a step with what is computed again",
        "at least": terms,
        "step": f"{found['step_seconds']:.3g} s if these overlap, "
        f"{found['step_seconds_without_overlap']:.3g} s if not",
        "MFU": f"{found['mfu']:.0%} if they overlap, {found['mfu_without_overlap']:.0%} if not",
        "run": f"{found['days']:.3g} days, {found['chip_hours']:,.0f} chip hours, if they overlap",
    }
    lines = [f"{name:>12}  {text}" for name, text in rows.items()]
    lines.append("\n" + f"{'exchange':>20}{'devices':>9}{'a step':>8}{'GB':>8}{'s':>8}")
    for row in found["collectives"]:
        lines.append(
            f"{row['kind']:>20}{row['devices']:>9,}{row['count']:>8,}{row['bytes'] / 1e9:>8.2f}"
            f"{row['seconds']:>8.3f}"
        )
    return "\n".join(lines)


def format_search(plans: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each plan, with its time, share of the memory and what to call it."""
    lines = [f"{'step, s':>9}{'no overlap':>12}{'memory':>8}"]
    for name, found in plans.items():
        held = found["bytes_per_chip"]
        lines.append(
            f"{found['step_seconds']:>9.3g}{found['step_seconds_without_overlap']:>12.3g}"
            f"{held['peak'] / held['limit']:>8.0%}  {name}"
        )
    return "\n".join([*lines, "", f"the first of these, {next(iter(plans))}:"])
