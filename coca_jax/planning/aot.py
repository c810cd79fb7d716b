"""Ahead-of-time compilation of the train step, for devices that need not be here.

Shapes with shardings stand for arrays. The program is the one that `coca train` runs
(`train/program.py`), with the `auto` values of the configuration resolved for the mesh's devices.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from coca_jax.config import build, model_config
from coca_jax.data.errors import ERROR_KINDS
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.distributed.mesh import mesh_shape
from coca_jax.distributed.sharding import bytes_per_device
from coca_jax.errors import UserError
from coca_jax.losses.distillation import TEACHER_IMAGES, TEACHER_TEXTS
from coca_jax.models import CoCa
from coca_jax.patches import PatchBudget, Patches
from coca_jax.planning import estimate
from coca_jax.planning.collectives import collectives
from coca_jax.planning.flops import hardware_flops
from coca_jax.planning.hlo import Program
from coca_jax.planning.kernels import kernels
from coca_jax.planning.plan import Step
from coca_jax.planning.traffic import hbm_bytes
from coca_jax.train.program import compile_traced, make_program
from coca_jax.validation import validate


def full_mesh(config: ConfigDict, devices: Sequence[Any]) -> Mesh:
    """Validates the configuration and returns its mesh over all these devices.

    Raises:
      UserError: the configuration is not valid, or its mesh leaves devices out.
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
    """Compiles the train step for a mesh; nothing is computed.

    Args:
      config: the whole configuration, valid.
      mesh: of devices that are here, or of a topology's.

    Returns:
      The compiled program, and the resources that it takes.

    Raises:
      UserError: the mesh does not divide some parameter.
    """
    traced = _trace(config, mesh)
    compiled = compile_traced(traced.program, traced.partitioner, config.compiler_options)
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    unaliased = memory.output_size_in_bytes - memory.alias_size_in_bytes
    step = Step(
        traced.bytes_by_part,
        arguments=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes + max(unaliased, 0),
        hardware_flops=hardware_flops(traced.program.jaxpr),
        hbm_bytes=hbm_bytes(program),
        collectives=collectives(program),
        devices=list(mesh.devices.flat),
        kernels=list(kernels(program)),
    )
    return compiled, step


def estimate_ahead(config: ConfigDict, mesh: Mesh) -> Step:
    """Estimates the resources of the train step from its traced program, without compiling it.

    See `coca_jax/planning/estimate.py`. The mesh may be of CPU devices that stand for GPUs; then
    attention is taken not to be fused.
    """
    config = ConfigDict(config.to_dict())
    if config.model.dtype == "auto":
        config.model.dtype = "bfloat16"  # not that of the CPU devices
    if mesh.devices.flat[0].platform == "cpu":
        config.model.attention = "xla"  # cuDNN's cannot be traced without its library
    traced, model, options = _trace(config, mesh), model_config(config), build(config)
    size, steps = options.train.batch_size, options.train.grad_accum_steps
    batch = estimate.Batch(size, steps, options.data.packing)
    params, frozen = traced.state.params, traced.state.frozen
    split = estimate.split_of((params, frozen), model, batch, traced.partitioner.batch_shards)
    jaxpr, arguments = traced.program.jaxpr, sum(traced.bytes_by_part.values())
    return Step(
        traced.bytes_by_part,
        arguments=arguments,
        temp_bytes=estimate.temp_bytes(jaxpr, split),
        hardware_flops=hardware_flops(jaxpr),
        hbm_bytes=estimate.hbm_bytes(jaxpr, split) + 2 * arguments,  # the state is read and written
        collectives=estimate.collectives(params, model, mesh, batch, frozen),
        devices=list(mesh.devices.flat),
    )


class _Traced(NamedTuple):
    """A traced train step, and the bytes that its arguments take of each device."""

    program: Any
    state: Any
    partitioner: Partitioner
    bytes_by_part: dict[str, int]


def _trace(config: ConfigDict, mesh: Mesh) -> _Traced:
    program = make_program(config, Partitioner(mesh, config.sharding.rules))
    state = program.factory.abstract
    batch = abstract_batch(config, program.model, program.partitioner)
    parts = {
        "parameters": (state.params, state.frozen),
        "optimizer": state.optimizer,
        "average": state.ema,
        "batch": batch,
    }
    bytes_by_part = {part: bytes_per_device(tree) for part, tree in parts.items()}
    return _Traced(program.trace(state, batch), state, program.partitioner, bytes_by_part)


def abstract_batch(
    config: ConfigDict, model: CoCa, partitioner: Partitioner
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch: uint8 images [b, h, w, 3], int32 texts, counters [b].

    Texts are [b, t], or packed [rows, t]. Images with grids of their own are `Patches`, of the
    longest sequences.
    """
    rows, packing = config.train.batch_size, config.data.packing

    def array(dtype: type, *shape: int, rows: int = rows) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=partitioner.batch)

    batch = {"image": array(np.uint8, *model.config.pixels)}
    if isinstance(target := model.config.image.target, PatchBudget):
        pixels = array(np.uint8, target.length, target.patch**2 * 3)
        batch["image"] = Patches(pixels, array(np.int32, 2))
    if packing.texts_per_row == 1:
        batch["text"] = array(np.int32, config.model.text.context_length)
    else:
        text = array(np.int32, packing.row_length, rows=rows // packing.texts_per_row)
        batch |= {"text": text, "text_segment_ids": text}
    if config.loss.distillation.weight:  # whose embeddings may be of another size than the model's
        embedding = array(np.float32, model.config.embed_dim or model.config.text.width)
        batch |= {TEACHER_IMAGES: embedding, TEACHER_TEXTS: embedding}
    if model.config.negatives:
        batch["negative_text"] = batch["text"]
    of_head = {name: array(np.int32) for name in ("label", "prefix_length") if model.config.head}
    return batch | of_head | {kind: array(np.int32) for kind in ERROR_KINDS}
