"""The table of settings: what each device gets, and that the compiler knows the options."""

import os
from types import SimpleNamespace

import jax
import pytest

from coca_jax.accelerators import (
    TABLE,
    attention_errors,
    compiler_options,
    default,
    prepare_environment,
)

DEVICES = {
    "cpu": SimpleNamespace(device_kind="cpu"),
    "h100": SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0"),
    "v100": SimpleNamespace(device_kind="Tesla V100-SXM2-16GB", compute_capability="7.0"),
    "t4": SimpleNamespace(device_kind="NVIDIA T4", compute_capability="7.5"),
    "mi300": SimpleNamespace(device_kind="AMD Instinct MI300X", compute_capability="gfx942"),
    "v4": SimpleNamespace(device_kind="TPU v4"),
}


@pytest.mark.parametrize(
    ("name", "dtype", "attention"),
    [
        ("cpu", "float32", "xla"),
        ("h100", "bfloat16", "cudnn"),
        ("v100", "bfloat16", "xla"),
        ("t4", "bfloat16", "xla"),
        ("mi300", "bfloat16", "xla"),
        ("v4", "bfloat16", "pallas"),
    ],
)
def test_defaults_by_device(name, dtype, attention):
    device = DEVICES[name]
    assert (default("dtype", device), default("attention", device)) == (dtype, attention)


def test_fused_attention_needs_its_device():
    cpu, gpu, tpu = DEVICES["cpu"], DEVICES["h100"], DEVICES["v4"]
    assert attention_errors("auto", cpu) == attention_errors("xla", cpu) == []
    assert "needs an NVIDIA GPU, Ampere or later; the device is cpu" in str(
        attention_errors("cudnn", cpu)
    )
    assert "needs a TPU; the device is NVIDIA H100" in str(attention_errors("pallas", gpu))
    assert attention_errors("cudnn", gpu) == attention_errors("pallas", tpu) == []


def test_compiler_options_by_device():
    assert compiler_options(DEVICES["cpu"]) == compiler_options(DEVICES["v4"]) == {}
    name = "xla_gpu_enable_latency_hiding_scheduler"
    assert compiler_options(DEVICES["h100"]) == {name: True}
    others = ((name, False), ("xla_gpu_graph_level", 0))
    assert compiler_options(DEVICES["h100"], others) == dict(others)


def test_the_compiler_knows_the_options_of_gpus():
    # Their names are looked up for any device.
    options = {row.name: row.value for row in TABLE if row.name.startswith("xla_gpu_")}
    assert options
    assert jax.jit(lambda x: x + 1).lower(1).compile(options)(1) == 2
    with pytest.raises(RuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1).lower(1).compile({"xla_gpu_nonsense": True})


def test_the_environment_is_the_users_where_it_is_set(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    prepare_environment()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    prepare_environment()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
