"""The summary that a run prints before its first step."""

from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from coca_jax.accelerators import compiler_options
from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.from_config import sections
from coca_jax.data.pipeline import TrainStream
from coca_jax.distributed.sharding import bytes_per_device
from coca_jax.io.messages import duplicates
from coca_jax.models import CoCaConfig
from coca_jax.planning import parameter_counts
from coca_jax.planning.flops import RULE
from coca_jax.train.experiment import Experiment
from coca_jax.train.state import TrainState

GIB = 2**30


def describe(
    experiment: Experiment, state: TrainState, compiled: Any, seconds: float, peak: str
) -> str:
    """Devices, mesh, data, model, memory and how utilization is counted, a line each.

    Args:
      experiment: the run.
      state: its state, for the bytes that a device holds.
      compiled: the compiled step.
      seconds: the time that compiling took.
      peak: the FLOP/s that utilization is relative to, in words.
    """
    config, mesh = experiment.config, experiment.program.partitioner.mesh
    model = experiment.program.model.config
    done = int(state.step)
    device = jax.devices()[0]
    counts = parameter_counts(model)
    axes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items())
    rows = {
        "workdir": f"{experiment.workdir}, {f'resumed at step {done}' if done else 'a new run'}",
        "devices": f"{mesh.size} x {device.device_kind} in {jax.process_count()} process(es)",
        "computing": _computing(config, model, device),
        "mesh": axes,
        "parameters": f"{sum(counts.values()):,} ({_parts(counts)})",
        **({} if state.frozen is None else {"trained": _trained(state, counts)}),
        "data": _data(config, experiment.stream),
        **({"classes": _classes(config.head.classes)} if config.head.classes else {}),
        "batch": f"{_pairs(experiment.stream.batch_sizes)} pairs a step, "
        f"{config.train.steps:,} steps",
        "memory": f"{bytes_per_device(state) / GIB:.3f} GiB of state, "
        f"{_temporary(compiled)} a device",
        "compiled": f"in {seconds:.1f} s",
        "mfu": f"{max(experiment.flops.values()) / 1e9:.3g} GFLOP a pair ({RULE}), against {peak}",
    }
    return "\n".join(f"{name:>10}  {text}" for name, text in rows.items())


def _computing(config: ConfigDict, model: CoCaConfig, device: Any) -> str:
    parts = [model.dtype, f"attention by {model.attention}"]
    parts.append("layers scanned" if model.scan_unroll == 1 else "layers unrolled")
    if config.train.quantization:
        parts.append(f"layers' matmuls in {config.train.quantization}")
    options = compiler_options(device, config.compiler_options)
    return ", ".join(parts + [f"{name}={value}" for name, value in options.items()])


def _classes(names: Sequence[str]) -> str:
    """The number of classes of the head, and names that several of them have."""
    twice = [f"{name!r} is the name of {list(names).count(name)}" for name in duplicates(names)]
    return "; ".join([f"{len(names):,}", *twice])


def _pairs(sizes: BatchSizes) -> str:
    """The pairs of a step; of several lengths of sequences, of each."""
    if not sizes.lengths:
        return str(sizes.batch_size)
    of_length = {sizes.length(step): sizes.size(step) for step in range(len(sizes.lengths))}
    return ", ".join(
        f"{size} ({length} patches)" for length, size in sorted(of_length.items(), reverse=True)
    )


def _data(config: ConfigDict, stream: TrainStream) -> str:
    """The data sets and their sizes, and below them the notes of their readers."""
    train, size = config.data.train, stream.mixture.size
    epochs = stream.batch_sizes.examples_seen(config.train.steps) / size
    names = ", ".join(config.data.sources) or train.path or f"{train.name}/{train.split}"
    lines = [f"{names}, {size:,} examples, {epochs:.1f} epochs"]
    for name, part in zip(sections(config.data), stream.make_batch.data_sets, strict=True):
        lines += [f"{name}: {note.text}" if name else note.text for note in part.source.notes]
    return f"\n{'':12}".join(lines)


def _parts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count > 1)


def _trained(state: TrainState, counts: dict[str, int]) -> str:
    """The number of parameters that a run with LoRA trains, and the share of them that it saves."""
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return f"{count:,} ({count / sum(counts.values()):.1%} of them), saved without the others"


def temporary_bytes(compiled: Any) -> int | None:
    """Bytes of a device that a compiled step's temporary arrays take; None: unknown."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes


def _temporary(compiled: Any) -> str:
    size = temporary_bytes(compiled)
    return "temp memory unknown" if size is None else f"{size / GIB:.3f} GiB of temp memory"
