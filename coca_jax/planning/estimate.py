"""Estimates of a traced step's memory, HBM bytes and collectives, where there is no compiler.

A traced program does not say how its arrays are sharded. Here, an array with the batch among its
first three axes is sharded as the batch is, an array with the shape of a parameter as that
parameter is, and any other array is replicated.
`docs/results.md` compares the estimates with compiled programs.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from coca_jax.data.packing import PackingConfig
from coca_jax.models import CoCaConfig
from coca_jax.planning.collectives import Collective
from coca_jax.planning.flops import inner_programs, is_fused_attention

WEIGHT = 2  # bytes of an element of a parameter or a gradient in a collective (bfloat16)


class Batch(NamedTuple):
    """The batch of a step."""

    size: int  # in examples
    grad_accum_steps: int = 1
    packing: PackingConfig = PackingConfig()


class Split(NamedTuple):
    """The shardings of a program's arrays."""

    rows: frozenset[int]  # lengths of an axis that is the batch
    shards: int  # of the batch
    params: Mapping[tuple[int, ...], int]  # number of parts by shape
    block: int = 0  # rows of a block, where the batch is cut into blocks on two axes

    def size(self, aval: Any) -> int:
        """Bytes that each device holds of an array."""
        shape = getattr(aval, "shape", ())
        whole = math.prod(shape) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
        if shape in self.params:
            return whole // self.params[shape]
        in_blocks = shape[1:2] == (self.block,) and shape[0] * self.block in self.rows
        return whole // self.shards if in_blocks or self.rows & set(shape[:3]) else whole


def split_of(params: Any, model: CoCaConfig, batch: Batch, shards: int) -> Split:
    """The split of a program with these sharded parameters and a batch over `shards` shards.

    Arrays have a row for each example, each of its images, each of its wrong pairs of a matching
    head, or each row of packed texts.
    """
    parts = {
        leaf.shape: math.prod(leaf.shape) // math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(params)
    }
    examples = (batch.size, batch.size // batch.grad_accum_steps)
    rows = {n * times for n in examples for times in (1, model.num_images, model.wrong_pairs)}
    rows |= {n // batch.packing.texts_per_row for n in examples}
    return Split(frozenset(rows - {0}), shards, parts, model.matching_block)


def temp_bytes(jaxpr: Any, split: Split) -> int:
    """The most bytes that live arrays take of a device at once, arguments left out.

    Operations run in the order of the program.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    last = {}
    for i, equation in enumerate(jaxpr.eqns):
        last.update((v, i) for v in equation.invars if not hasattr(v, "val"))
    last.update((v, len(jaxpr.eqns)) for v in jaxpr.outvars if not hasattr(v, "val"))
    live, peak, held = 0, 0, {}
    for i, equation in enumerate(jaxpr.eqns):
        local = split._replace(shards=1, params={}) if _is_local(equation) else split
        sizes = {v: split.size(v.aval) for v in equation.outvars if v in last}
        inside = max((temp_bytes(p, local) for p in inner_programs(equation.params)), default=0)
        # A loop fills its results while it runs; other programs' results are among their own.
        own = sum(sizes.values())
        looped = equation.primitive.name in ("scan", "while")
        peak = max(peak, live + (own + inside if looped else max(own, inside)))
        held |= sizes
        live += own
        for v in {v for v in equation.invars if not hasattr(v, "val") and last[v] == i}:
            live -= held.pop(v, 0)
    return peak


def hbm_bytes(jaxpr: Any, split: Split) -> int:
    """Bytes of HBM that matmuls and kernels read and write; the rest is assumed to be fused."""
    count = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        local = split._replace(shards=1, params={}) if _is_local(equation) else split
        is_kernel = equation.primitive.name in ("dot_general", "pallas_call")
        if is_kernel or is_fused_attention(equation):
            count += sum(split.size(v.aval) for v in (*equation.invars, *equation.outvars))
            continue
        inside = sum(hbm_bytes(part, local) for part in inner_programs(equation.params))
        count += inside * equation.params.get("length", 1)
    return count


def collectives(
    params: Any, model: CoCaConfig, mesh: Mesh, batch: Batch, frozen: Any = None
) -> list[Collective]:
    """The collectives on parameters, gradients and, where `tensor` shards layers, on activations.

    A parameter that is sharded over `fsdp` is all-gathered for the forward and for the backward
    pass (and, with a contrastive loss, once more for the embeddings of each micro-batch); its
    gradient is reduce-scattered. Over axes that do not shard it, the gradient is all-reduced. With
    `tensor`, each attention and MLP of a layer is all-reduced in both directions. Parameters that
    are `frozen` are gathered, but have no gradient.
    """
    counts: Counter[tuple[str, int, tuple[str, ...]]] = Counter()
    steps = batch.grad_accum_steps
    passes = steps * (3 if steps > 1 and model.has_cls else 2)
    leaves = [(leaf, True) for leaf in jax.tree.leaves(params)]
    leaves += [(leaf, False) for leaf in jax.tree.leaves(frozen)]
    for leaf, has_gradient in leaves:
        axes = [a for entry in leaf.sharding.spec for a in jax.tree.leaves(entry)]
        whole = math.prod(leaf.shape) * WEIGHT
        whole //= mesh.shape["tensor"] if "tensor" in axes else 1
        if "fsdp" in axes and mesh.shape["fsdp"] > 1:
            counts["all-gather", whole, ("fsdp",)] += passes
            counts["reduce-scatter", whole, ("fsdp",)] += steps * has_gradient
            whole //= mesh.shape["fsdp"]
        rest = tuple(a for a in ("data", "fsdp") if a not in axes and mesh.shape[a] > 1)
        if rest and has_gradient:
            counts["all-reduce", whole, rest] += 1
    if mesh.shape["tensor"] > 1:
        examples = batch.size // (steps * mesh.shape["data"] * mesh.shape["fsdp"])
        for size, times in _activations(model, examples, batch.packing):
            counts["all-reduce", size, ("tensor",)] += times * passes
    return [
        Collective(kind, size, _first_group(mesh, axes), times)
        for (kind, size, axes), times in counts.items()
        if times
    ]


def _activations(
    model: CoCaConfig, examples: int, packing: PackingConfig
) -> Iterator[tuple[int, int]]:
    """Bytes of the residual stream of each tower, and all-reduces of it in a pass."""
    image, text, num_images = model.image, model.text, model.num_images
    yield num_images * examples * image.tokens * image.width * WEIGHT, 2 * image.num_layers
    texts = packing.texts_per_row
    length = packing.row_length if texts > 1 else text.context_length
    words = examples // texts * length * text.width * WEIGHT
    if model.reads_text:
        yield words, 2 * text.unimodal_layers * (1 + model.negatives)
    if model.multimodal:
        cross = text.multimodal_layers // text.cross_attention_every * (1 + text.interleaved)
        times = 2 * text.multimodal_layers + cross
        yield num_images * words, times
        if model.wrong_pairs:
            yield model.wrong_pairs * words, times


def _first_group(mesh: Mesh, axes: tuple[str, ...]) -> tuple[int, ...]:
    ids = np.arange(mesh.size).reshape(mesh.devices.shape)
    chosen = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    return tuple(int(i) for i in ids[chosen].flat)


def _is_local(equation: Any) -> bool:
    """Whether the inner program of an equation has the shapes of one device."""
    return equation.primitive.name == "shard_map"
