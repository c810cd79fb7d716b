"""The train step compiled for devices that are not here: shapes and shardings stand for arrays."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from coca_jax.config import model_config
from coca_jax.data.errors import ERROR_KINDS
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.distributed.mesh import mesh_shape
from coca_jax.distributed.sharding import bytes_per_device
from coca_jax.errors import UserError
from coca_jax.models import CoCa
from coca_jax.planning.estimate import collectives, split_of, temporaries, traffic
from coca_jax.planning.flops import hardware_flops
from coca_jax.planning.hlo import Program
from coca_jax.planning.plan import Step
from coca_jax.train.program import compile_traced, make_program
from coca_jax.validation import validate


def full_mesh(config: ConfigDict, devices: Sequence[Any]) -> Mesh:
    """The configured mesh over all these devices, after a look at the whole configuration.

    Raises:
      UserError: the configuration is wrong, or its mesh leaves devices out.
    """
    validate(config, len(devices))
    shape = mesh_shape(config.mesh, len(devices))
    if math.prod(shape) != len(devices):
        raise UserError(
            f"config.mesh={dict(config.mesh)} takes {math.prod(shape)} of the {len(devices)} "
            "devices; config.mesh.data=-1 takes all that are left"
        )
    return make_mesh(config.mesh, devices)


def compile_ahead(config: ConfigDict, mesh: Mesh) -> tuple[Any, Step]:
    """Compiles the step that `coca train` would run on `mesh`; nothing is computed.

    Args:
      config: the whole configuration, found right.
      mesh: of devices that are here, or of a topology's.

    Returns:
      The compiled program, and what it takes.

    Raises:
      UserError: the mesh does not divide some parameter.
    """
    traced = _trace(config, mesh)
    compiled = compile_traced(traced.program, traced.partitioner, config.compiler_options)
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    step = Step(
        traced.held,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + max(fresh, 0),
        hardware_flops=hardware_flops(traced.program.jaxpr),
        traffic=program.traffic(),
        collectives=program.collectives(),
        devices=list(mesh.devices.flat),
    )
    return compiled, step


def estimate_ahead(config: ConfigDict, mesh: Mesh) -> Step:
    """The same without compiling, from the traced program (`coca_jax/planning/estimate.py`)."""
    config = ConfigDict(config.to_dict())
    if config.model.dtype == "auto":
        config.model.dtype = "bfloat16"  # whatever devices stand for those it will run on
    config.model.attention = "xla"  # what is counted
    traced, model, size = _trace(config, mesh), model_config(config), config.train.batch_size
    grad_accum_steps, params = config.train.grad_accum_steps, traced.state.params
    shards = traced.partitioner.batch_shards
    split = split_of(params, size, grad_accum_steps, shards, model.num_images)
    jaxpr, given = traced.program.jaxpr, sum(traced.held.values())
    return Step(
        traced.held,
        arguments=given,
        temporaries=temporaries(jaxpr, split),
        hardware_flops=hardware_flops(jaxpr),
        traffic=traffic(jaxpr, split) + 2 * given,  # the state is read and written
        collectives=collectives(params, model, mesh, size, grad_accum_steps),
        devices=list(mesh.devices.flat),
        estimated=True,
    )


class _Traced(NamedTuple):
    program: Any
    state: Any
    partitioner: Partitioner
    held: dict[str, int]


def _trace(config: ConfigDict, mesh: Mesh) -> _Traced:
    program = make_program(config, Partitioner(mesh, config.sharding.rules))
    state = program.factory.abstract
    batch = abstract_batch(config, program.model, program.partitioner)
    parts = {
        "parameters": state.params,
        "optimizer": state.optimizer,
        "average": state.ema,
        "batch": batch,
    }
    held = {part: bytes_per_device(tree) for part, tree in parts.items()}
    return _Traced(program.trace(state, batch), state, program.partitioner, held)


def abstract_batch(
    config: ConfigDict, model: CoCa, partitioner: Partitioner
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch as the data gives it: uint8 images [b, h, w, 3], int32 texts [b, t], counters [b]."""
    rows = config.train.batch_size

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=partitioner.batch)

    batch = {
        "image": array(np.uint8, *model.config.pixels),
        "text": array(np.int32, config.model.text.context_length),
    }
    asked = {name: array(np.int32) for name in ("label", "prefix_length") if model.config.head}
    return batch | asked | {kind: array(np.int32) for kind in ERROR_KINDS}
