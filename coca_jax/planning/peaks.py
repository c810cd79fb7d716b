"""Peak FLOP/s of devices, which model FLOPs utilization (MFU) is relative to."""

import functools
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one jax device, from the makers' data sheets.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,  # one of a chip's two devices
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops(devices: int) -> tuple[float, str]:
    """Peak FLOP/s of that many devices like the first one, and where the figure is from.

    A device that the table lacks (a CPU, say) is measured: the best of a few large float32
    matmuls on one device. Several CPU devices of one process share its cores, so that they
    together have the rate of one.
    """
    kind = jax.devices()[0].device_kind
    for name in sorted(PEAKS, key=len, reverse=True):
        if kind.startswith(name):
            return devices * PEAKS[name], f"{devices} x {name}, dense bfloat16, data sheet"
    count = jax.process_count() if jax.default_backend() == "cpu" else devices
    return count * _measured(), f"{kind}, float32 matmul, measured"


@functools.cache  # it takes a second, which each run of a sweep would wait
def _measured(size: int = 1536, repeats: int = 4) -> float:
    x = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)
