"""The settings for each kind of device, with their reasons, in one table.

`coca train` sets these as it starts; `config.compiler_options` adds to them or overrides them, and
`config.model.attention`, `dtype` and `scan_unroll` are `auto` (0) until set; `model_config`
resolves them for a device.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

ALL_LAYERS = 10_000  # as many as a model may have


class Setting(NamedTuple):
    """A row of the table."""

    devices: str  # how JAX's name of the device's kind begins, in lower case
    kind: str  # "attention", "dtype", "unroll", "compiler" or "environment"
    name: str  # of a compiler option or an environment variable
    value: Any
    reason: str


TABLE = (
    Setting("cpu", "dtype", "", "float32", "XLA's bfloat16 matmuls are slow on a CPU"),
    Setting(
        "",
        "dtype",
        "",
        "bfloat16",
        "at least twice the FLOP/s and half the memory bytes of float32",
    ),
    Setting(
        "nvidia",
        "attention",
        "",
        "cudnn",
        "its fused attention never writes the logits, most of what a step without "
        "rematerialization keeps",
    ),
    Setting(
        "tpu",
        "attention",
        "",
        "pallas",
        "the logits, most of what a step reads and writes, never leave the cores",
    ),
    Setting("", "attention", "", "xla", "runs everywhere"),
    Setting(
        "nvidia",
        "unroll",
        "",
        ALL_LAYERS,
        "a scan moves what the backward pass needs four times instead of twice, and fills the "
        "arrays it is kept in with zeros first: by plans, 1.4 times the step of unrolled layers",
    ),
    Setting("", "unroll", "", 1, "one layer is compiled, whatever their number"),
    Setting(
        "nvidia",
        "compiler",
        "xla_gpu_enable_latency_hiding_scheduler",
        True,
        "collectives between GPUs overlap with matmuls; XLA leaves it off by default",
    ),
    Setting(
        "nvidia",
        "environment",
        "XLA_PYTHON_CLIENT_MEM_FRACTION",
        "0.9",
        "of the memory is for programs; JAX's default is 0.75",
    ),
)


def default(kind: str, device: Any) -> Any:
    """The table's `dtype`, `attention` or `unroll` for a kind of device: its first row for it."""
    return next(row.value for row in TABLE if row.kind == kind and _suits(row, device))


def attention_errors(attention: str, device: Any) -> list[str]:
    """A message if this device cannot run what `config.model.attention` names; else none."""
    needed = {"cudnn": "an NVIDIA GPU, Ampere or later", "pallas": "a TPU"}.get(attention)
    if needed is None or default("attention", device) == attention:
        return []
    return [
        f"config.model.attention={attention} needs {needed}; the device is {device.device_kind}"
    ]


def compiler_options(device: Any, others: Sequence[tuple[str, Any]] = ()) -> dict[str, Any]:
    """Returns the compiler options of a program for this kind of device.

    Args:
      device: a device that the program will run on; it may be on another machine.
      others: pairs of name and value, which override the table's.
    """
    rows = [row for row in TABLE if row.kind == "compiler" and _suits(row, device)]
    return {row.name: row.value for row in rows} | dict(others)


def prepare_environment() -> None:
    """Sets the table's environment variables that are unset; call it before a device is used.

    The kind of device is not known at that time. That does no harm: a row's variable is read only
    for the row's devices.
    """
    for row in TABLE:
        if row.kind == "environment":
            os.environ.setdefault(row.name, row.value)


def _suits(row: Setting, device: Any) -> bool:
    if not device.device_kind.lower().startswith(row.devices):
        return False
    return row.value != "cudnn" or _fuses_attention(device)


def _fuses_attention(gpu: Any) -> bool:
    """Whether cuDNN's fused attention runs on this NVIDIA GPU: Ampere's generation and later."""
    return float(gpu.compute_capability) >= 8
