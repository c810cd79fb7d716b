"""The plan of a run: memory, FLOPs and time of its train step, compiled or estimated."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coca_jax.data.packing import PackingConfig
from coca_jax.errors import UserError
from coca_jax.models import CoCaConfig
from coca_jax.planning.chips import GIB, GPUS
from coca_jax.planning.collectives import Collective
from coca_jax.planning.cuda import INSTALL
from coca_jax.planning.flops import RULE, training_flops
from coca_jax.planning.kernels import Kernel
from coca_jax.planning.parameters import parameter_counts
from coca_jax.planning.roofline import kernel_table, roofline
from coca_jax.planning.topologies import Topology


class Step(NamedTuple):
    """The resources of a train step, compiled or estimated."""

    bytes_by_part: dict[str, int]  # of a device's arguments: parameters, optimizer, ...
    arguments: int  # bytes of these arguments as the compiler lays them out
    temp_bytes: int  # with the results that do not alias an argument
    hardware_flops: int  # of a step, on all devices, rematerialization included
    hbm_bytes: int  # read from and written to a device's memory
    collectives: Sequence[Collective]
    devices: Sequence[Any]  # in the order of the mesh
    kernels: Sequence[Kernel] = ()  # in the program's order; none of an estimate

    @property
    def estimated(self) -> bool:
        """Whether there is no compiled program."""
        return not self.kernels


def plan(
    model: CoCaConfig,
    topology: Topology,
    step: Step,
    batch_size: int,
    steps: int | None,
    packing: Any = PackingConfig(),
) -> dict[str, Any]:
    """The plan as `coca plan --json` writes it.

    Args:
      model: the model that is trained.
      topology: the devices that it is trained on.
      step: compiled or estimated for them.
      batch_size: examples in a step.
      steps: of the whole run; None: only its data say how many they are.
      packing: how texts share rows; `config.data.packing`, as options or as it stands.

    Returns:
      Bytes of each device, FLOPs, collectives, and a roofline of the step:
      `step_seconds`, `mfu` and `days` (None: `steps` is) if its terms overlap fully;
      `..._without_overlap` if not; of a compiled step its `kernels`, and of one for GPUs their sum,
      `predicted_step_seconds`.
    """
    of_example = training_flops(model, packing)
    flops = batch_size * of_example
    terms, collectives = roofline(
        step.hardware_flops, step.hbm_bytes, step.collectives, topology, step.devices
    )
    seconds, serial = max(terms.values()), sum(terms.values())
    kernels = kernel_table(step.kernels, topology, step.devices)
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "devices": len(topology.devices),
        "parameters": sum(parameter_counts(model).values()),
        **_memory(step, topology),
        "estimated": step.estimated,
        "flops_per_example": of_example,
        "flops_per_step": flops,
        "hardware_flops_per_step": step.hardware_flops,
        "rule": RULE,
        "collectives": collectives,
        "seconds_by_term": terms,
        "step_seconds": seconds,
        "step_seconds_without_overlap": serial,
        "mfu": flops / topology.peak / seconds,
        "mfu_without_overlap": flops / topology.peak / serial,
        "days": steps and steps * seconds / 86_400,
        "chip_hours": steps and steps * seconds / 3_600 * topology.chips,
        "predicted_step_seconds": _predicted_seconds(kernels, topology),
        "kernels": kernels,
    }


def _memory(step: Step, topology: Topology) -> dict[str, dict[str, float]]:
    """What a device holds, in all and by part."""
    whole = {
        "arguments": step.arguments,
        "temporaries": step.temp_bytes,
        "peak": step.arguments + step.temp_bytes,
        "limit": topology.generation.limit,
    }
    # XLA pads arrays to tiles; the padding is of no part.
    padding = step.arguments - sum(step.bytes_by_part.values())
    parts = step.bytes_by_part | {"temporaries": step.temp_bytes, "padding": padding}
    return {"bytes_per_chip": whole, "bytes_by_part": parts}


class OutOfMemory(UserError):
    """The train step does not fit; `needed` is the bytes that it takes of a device."""

    def __init__(self, needed: float, topology: Topology):
        self.needed, limit = needed, topology.generation.limit
        super().__init__(
            f"the step does not fit: it needs {needed / GIB:.2f} GiB a device and "
            f"{topology.name.partition(':')[0]} has {limit / GIB:.2f}, so "
            f"{(needed - limit) / GIB:.2f} GiB are missing"
        )


def out_of_memory(error: Exception, topology: Topology) -> OutOfMemory | None:
    """The compiler's error about memory as an `OutOfMemory`; None for any other error."""
    match = re.search(r"(?:[Uu]sed|required for HLO temporaries \()\s*([\d.]+)([KMGT])", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or match is None:
        return None
    return OutOfMemory(
        float(match[1]) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[match[2]], topology
    )


def format_plan(plan: Mapping[str, Any]) -> str:
    """A plan as text."""
    held, slices = plan["bytes_per_chip"], plan["slices"]
    kind = "machines" if plan["topology"].partition(":")[0] in GPUS else "slices"
    where = f"{plan['topology']}, {slices} {kind}" if slices > 1 else plan["topology"]
    terms = ", ".join(
        f"{name.replace('_', ' ')} {seconds:.3g} s"
        for name, seconds in plan["seconds_by_term"].items()
        if seconds
    )
    rows = {
        "topology": f"{where}, {plan['chips']:,} chips",
        **({"estimated": f"all but FLOPs; to compile: {INSTALL}"} if plan["estimated"] else {}),
        "parameters": f"{plan['parameters']:,}",
        "arguments": f"{held['arguments'] / GIB:.2f} GiB a device",
        "temp": f"{held['temporaries'] / GIB:.2f} GiB a device",
        "peak": f"{held['peak'] / GIB:.2f} GiB a device",
        "limit": f"{held['limit'] / GIB:.2f} GiB a device",
        "memory": f"{held['peak'] / held['limit']:.0%} of the limit",
        "model FLOPs": f"{plan['flops_per_step']:.3g} a step ({plan['rule']})",
        "hardware FLOPs": f"{plan['hardware_flops_per_step']:.3g} a step, with rematerialization",
        "at least": terms,
        "step": f"{plan['step_seconds']:.3g} s if these overlap, "
        f"{plan['step_seconds_without_overlap']:.3g} s if not",
        **_predicted(plan),
        "MFU": f"{plan['mfu']:.0%} if they overlap, {plan['mfu_without_overlap']:.0%} if not",
        "run": _whole_run(plan),
    }
    lines = [f"{name:>14}  {text}" for name, text in rows.items()]
    lines.append("\n" + f"{'collective':>20}{'devices':>9}{'a step':>8}{'GB':>8}{'s':>8}")
    for row in plan["collectives"]:
        lines.append(
            f"{row['kind']:>20}{row['devices']:>9,}{row['count']:>8,}{row['bytes'] / 1e9:>8.2f}"
            f"{row['seconds']:>8.3f}"
        )
    return "\n".join(lines)


def _whole_run(plan: Mapping[str, Any]) -> str:
    if plan["days"] is None:
        return "how many steps config.train.epochs are depends on the data; set config.train.steps"
    return f"{plan['days']:.3g} days, {plan['chip_hours']:,.0f} chip hours, if they overlap"


def _predicted_seconds(kernels: Sequence[Mapping], topology: Topology) -> float | None:
    """The sum of the kernels' times; None of TPUs, the rates of whose kernels are not known."""
    if not kernels or not topology.switched:
        return None
    return sum(row["seconds"] for row in kernels)


def _predicted(plan: Mapping[str, Any]) -> dict[str, str]:
    """The row of the kernels' sum, if there is one."""
    if not (seconds := plan["predicted_step_seconds"]):
        return {}
    mfu = plan["mfu"] * plan["step_seconds"] / seconds
    return {"predicted": f"{seconds:.3g} s, the sum over all kernels; MFU {mfu:.0%}"}


def format_kernels(plan: Mapping[str, Any], count: int) -> str:
    """The kernels that take the longest in a step, as a table, and the sums of each kind.

    Args:
      plan: from `plan`, compiled.
      count: rows of the table.
    """
    rows = plan["kernels"]
    total = sum(row["seconds"] for row in rows)
    kinds: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = kinds.setdefault(row["kind"], {"part": "all", "kind": row["kind"]})
        for name in ("count", "bytes", "flops", "seconds"):
            kind[name] = kind.get(name, 0) + row[name]
    sums = sorted(kinds.values(), key=lambda row: -row["seconds"])
    header = f"{'part of the model':<64}{'kind':<13}{'a step':>7}{'GB':>9}{'TFLOP':>9}{'ms':>9}"
    lines = [f"{header}{'share':>7}"]
    for row in [*rows[:count], *sums]:
        lines.append(
            f"{row['part']:<64}{row['kind']:<13}{row['count']:>7,}{row['bytes'] / 1e9:>9.2f}"
            f"{row['flops'] / 1e12:>9.2f}{1e3 * row['seconds']:>9.2f}{row['seconds'] / total:>7.1%}"
        )
    lines.insert(1 + min(count, len(rows)), "")
    return "\n".join(lines)


def ranking_seconds(plan: Mapping[str, Any]) -> float:
    """The step's predicted time; without a prediction, the time if its terms overlap fully."""
    return plan["predicted_step_seconds"] or plan["step_seconds"]


def format_search(plans: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each plan: the time that ranks it, its share of the memory and its name."""
    lines = [f"{'step, s':>9}{'no overlap':>12}{'memory':>8}"]
    for name, plan in plans.items():
        held = plan["bytes_per_chip"]
        lines.append(
            f"{ranking_seconds(plan):>9.3g}{plan['step_seconds_without_overlap']:>12.3g}"
            f"{held['peak'] / held['limit']:>8.0%}  {name}"
        )
    return "\n".join([*lines, "", f"the first of these, {next(iter(plans))}:"])
