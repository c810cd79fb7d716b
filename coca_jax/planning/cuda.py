"""GPUs that need not be here, for which JAX's CUDA plugin compiles; it needs no driver."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from coca_jax.errors import UserError
from coca_jax.planning.chips import Generation

INSTALL = 'pip install "coca_jax[plan-cuda]"'
PLUGINS = {"jax-cuda13-plugin": "13", "jax-cuda12-plugin": "12"}  # and their CUDA's version
OLDEST = (0, 10)  # jaxlib that compiles for GPUs without one
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
  device_memory_size: {memory}
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


class IncompletePlugin(UserError):
    """JAX's CUDA plugin lacks a library, so that it compiles nothing, whatever the settings."""


def is_installed() -> bool:
    """Whether a CUDA plugin of JAX is installed, of whatever version; it is not imported."""
    return any(_version(plugin) for plugin in PLUGINS)


def devices(gpu: Generation, machines: int, each: int) -> list[Any]:
    """Devices of `machines` machines with `each` of these GPUs, for which programs compile.

    Raises:
      UserError: the plugin is of another CUDA or jaxlib than is needed, or incomplete.
    """
    from jax.experimental import topologies

    if error := plugin_error({name: _version(name) for name in ("jaxlib", *PLUGINS)}):
        raise UserError(error)
    try:
        described = topologies.get_topology_desc(
            platform="cuda",
            target_config=target_config(gpu),
            topology=f"1x{machines}x{each}",
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"JAX's CUDA plugin does not start: {reason}; try {INSTALL}") from error
    return list(described.devices)


def plugin_error(versions: Mapping[str, str | None]) -> str | None:
    """The reason why these installed versions cannot compile for GPUs; None if they can.

    Args:
      versions: of jaxlib and of the plugins; None where one is not installed.
    """
    jaxlib, plugin = versions["jaxlib"], next(name for name in PLUGINS if versions[name])
    if tuple(int(n) for n in jaxlib.split(".")[:2]) < OLDEST:
        return f"jaxlib {jaxlib} compiles for no GPU that is not here; 0.10 and later do"
    if PLUGINS[plugin] != "13":
        return f"{plugin} is installed, and plans need CUDA 13's: {INSTALL}"
    if versions[plugin] != jaxlib:
        return f"{plugin} {versions[plugin]} does not fit jaxlib {jaxlib}: {INSTALL}"
    return None


def incomplete_plugin(error: Exception) -> IncompletePlugin | None:
    """JAX's error about a missing cuDNN as an `IncompletePlugin`; None for any other error."""
    if "cuDNN is not detected" not in str(error):
        return None
    return IncompletePlugin(f"JAX's CUDA plugin finds no cuDNN: {INSTALL}")


def target_config(gpu: Generation) -> str:
    """The text of XLA's `GpuTargetConfigProto` for a chip.

    Its memory makes XLA recompute to save memory where it would on the device: there it may fill
    what the allocator has, here 80% of this figure (`GetSchedulerMemoryLimit`).
    """
    return TEMPLATE.format(chip=gpu.target, memory=gpu.limit * 100 // 80)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
