"""GPUs that need not be here, for which JAX's CUDA plugin compiles; it needs no driver."""

import importlib.metadata
import importlib.util
from typing import Any

from coca_jax.planning.chips import Generation, Target

INSTALL = 'pip install "coca_jax[plan-cuda]"'
# Limits of every GPU since Ampere. CUDA's and cuDNN's versions are those of jax[cuda13].
TEMPLATE = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {chip.shared_memory}
  threads_per_core_limit: 2048
  core_count: {chip.cores}
  fpus_per_core: {chip.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.bandwidth}
  l2_cache_size: {chip.l2_cache}
  clock_rate_ghz: {chip.clock_ghz}
  device_memory_size: {chip.memory}
  shared_memory_per_block_optin: {chip.shared_memory_of_block}
  cuda_compute_capability {{ major: {chip.capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "{chip.name}"
"""


def is_installed() -> bool:
    """Whether a CUDA plugin of JAX is installed; it is not imported."""
    return any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))


def devices(gpu: Generation, machines: int, each: int) -> list[Any]:
    """Devices of `machines` machines with `each` of these GPUs, for which programs compile."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda",
        target_config=target_config(gpu.target),
        topology=f"1x{machines}x{each}",
    )
    return list(described.devices)


def target_config(chip: Target) -> str:
    """The text of XLA's `GpuTargetConfigProto` for a chip."""
    return TEMPLATE.format(chip=chip)
