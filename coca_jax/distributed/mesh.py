"""The device mesh."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from coca_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def mesh_shape(sizes: Mapping[str, int] | ConfigDict, devices: int) -> tuple[int, ...]:
    """The mesh's shape in the order of `AXES`, with one -1 filled in from the device count.

    Raises:
      UserError: the sizes cannot be laid out on that many devices.
    """
    shape = [sizes[axis] for axis in AXES]
    wanted = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"mesh {wanted}: sizes are positive, and one of them may be -1")
    rest, remainder = divmod(devices, -math.prod(shape) if -1 in shape else math.prod(shape))
    if -1 in shape:
        if remainder or not rest:
            raise UserError(
                f"mesh {wanted}: the {devices} devices here cannot be divided by "
                f"{-math.prod(shape)}; choose sizes whose product divides {devices}"
            )
        shape[shape.index(-1)] = rest
    if math.prod(shape) > devices:
        raise UserError(f"mesh {wanted} needs {math.prod(shape)} devices, and there are {devices}")
    return tuple(shape)


def make_mesh(
    sizes: Mapping[str, int] | ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over the first devices, in an order that suits their interconnect.

    Args:
      sizes: devices along each of `AXES`; -1 stands for what is left.
      devices: all of this run's devices by default.

    Raises:
      UserError: the sizes do not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(sizes, len(devices))
    used = devices[: math.prod(shape)]
    slices = len({getattr(device, "slice_index", 0) for device in used})
    if used[0].platform != "tpu":
        # In the order of processes, so that only the outermost axes go between machines.
        grid = np.array(used).reshape(shape)
    elif slices == 1:
        grid = mesh_utils.create_device_mesh(shape, used, allow_split_physical_axes=True)
    elif shape[0] % slices:
        raise UserError(
            f"mesh data={shape[0]} should be a multiple of the {slices} slices, between which only "
            "the data axis goes"
        )
    else:
        within = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            within, (slices, 1, 1), used, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
