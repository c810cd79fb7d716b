"""What a traced step takes where no compiler is at hand: memory, traffic and exchanges, estimated.

Arrays of a traced program do not say how they are split. Here those with the batch among their
first three axes are split as it is, those shaped like a parameter like that, and others are whole.
`docs/scale.md` compares the estimates with compiled programs.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from coca_jax.models import CoCaConfig
from coca_jax.planning.flops import inner_programs
from coca_jax.planning.hlo import Collective

WEIGHT = 2  # bytes of a parameter and of its gradient where they are exchanged (bfloat16)


class Split(NamedTuple):
    """How arrays are split over devices."""

    rows: frozenset[int]  # lengths of an axis that is the batch
    shards: int  # of the batch
    params: Mapping[tuple[int, ...], int]  # number of parts by shape

    def size(self, aval: Any) -> int:
        """Bytes that a device has of an array."""
        shape = getattr(aval, "shape", ())
        whole = math.prod(shape) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
        if shape in self.params:
            return whole // self.params[shape]
        return whole // self.shards if self.rows & set(shape[:3]) else whole


def split_of(
    params: Any, batch_size: int, grad_accum_steps: int, shards: int, pictures: int = 1
) -> Split:
    """What `Split` needs, of parameters with shardings and a batch over so many shards.

    Arrays have a row for each example, or for each of its pictures.
    """
    parts = {
        leaf.shape: math.prod(leaf.shape) // math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(params)
    }
    examples = (batch_size, batch_size // grad_accum_steps)
    return Split(frozenset(n * times for n in examples for times in (1, pictures)), shards, parts)


def temporaries(jaxpr: Any, split: Split) -> int:
    """Bytes of a device's arrays at the worst moment, in the program's order, but for arguments."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    last = {}
    for i, equation in enumerate(jaxpr.eqns):
        last.update((v, i) for v in equation.invars if not hasattr(v, "val"))
    last.update((v, len(jaxpr.eqns)) for v in jaxpr.outvars if not hasattr(v, "val"))
    live, peak, held = 0, 0, {}
    for i, equation in enumerate(jaxpr.eqns):
        local = split._replace(shards=1, params={}) if _is_local(equation) else split
        made = {v: split.size(v.aval) for v in equation.outvars if v in last}
        inside = max((temporaries(p, local) for p in inner_programs(equation.params)), default=0)
        # A loop fills its results while it runs; other programs' results are among their own.
        own = sum(made.values())
        looped = equation.primitive.name in ("scan", "while")
        peak = max(peak, live + (own + inside if looped else max(own, inside)))
        held |= made
        live += own
        for v in {v for v in equation.invars if not hasattr(v, "val") and last[v] == i}:
            live -= held.pop(v, 0)
    return peak


def traffic(jaxpr: Any, split: Split) -> int:
    """Bytes that a device's matrix products read and write; the rest is taken to be fused."""
    count = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        local = split._replace(shards=1, params={}) if _is_local(equation) else split
        if equation.primitive.name == "dot_general":
            count += sum(split.size(v.aval) for v in (*equation.invars, *equation.outvars))
        inside = sum(traffic(part, local) for part in inner_programs(equation.params))
        count += inside * equation.params.get("length", 1)
    return count


def collectives(
    params: Any, model: CoCaConfig, mesh: Mesh, batch_size: int, grad_accum_steps: int
) -> list[Collective]:
    """Exchanges of parameters, gradients and, where `tensor` splits layers, of activations.

    A split parameter is gathered for the forward and for the backward pass (and, to contrast, once
    more for each micro-batch's embeddings), its gradient is added up and split again; over axes
    that do not split it the gradient is added up. Each attention and MLP of a layer is added up
    over `tensor` in both directions.
    """
    counts: Counter[tuple[str, int, tuple[str, ...]]] = Counter()
    passes = grad_accum_steps * (3 if grad_accum_steps > 1 and model.has_cls else 2)
    for leaf in jax.tree.leaves(params):
        axes = [a for entry in leaf.sharding.spec for a in jax.tree.leaves(entry)]
        whole = math.prod(leaf.shape) * WEIGHT
        whole //= mesh.shape["tensor"] if "tensor" in axes else 1
        if "fsdp" in axes and mesh.shape["fsdp"] > 1:
            counts["all-gather", whole, ("fsdp",)] += passes
            counts["reduce-scatter", whole, ("fsdp",)] += grad_accum_steps
            whole //= mesh.shape["fsdp"]
        rest = tuple(a for a in ("data", "fsdp") if a not in axes and mesh.shape[a] > 1)
        if rest:
            counts["all-reduce", whole, rest] += 1
    if mesh.shape["tensor"] > 1:
        rows = batch_size // (grad_accum_steps * mesh.shape["data"] * mesh.shape["fsdp"])
        for size, times in _activations(model, rows):
            counts["all-reduce", size, ("tensor",)] += times * passes
    return [
        Collective(kind, size, _first_group(mesh, axes), times)
        for (kind, size, axes), times in counts.items()
    ]


def _activations(model: CoCaConfig, rows: int) -> Iterator[tuple[int, int]]:
    """Bytes of the residual stream of each tower, and how often a pass adds it up."""
    image, text, pictures = model.image, model.text, model.num_images
    yield pictures * rows * image.tokens * image.width * WEIGHT, 2 * image.num_layers
    words = rows * text.context_length * text.width * WEIGHT
    if model.reads_text:
        yield words, 2 * text.unimodal_layers
    if model.multimodal:
        yield pictures * words, 3 * text.multimodal_layers


def _first_group(mesh: Mesh, axes: tuple[str, ...]) -> tuple[int, ...]:
    ids = np.arange(mesh.size).reshape(mesh.devices.shape)
    chosen = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    return tuple(int(i) for i in ids[chosen].flat)


def _is_local(equation: Any) -> bool:
    """Whether its inner program is written for one device's part."""
    return equation.primitive.name == "shard_map"
