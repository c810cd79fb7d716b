"""Shardings: a table from logical axis names to mesh axes, applied to a mesh."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coca_jax.errors import UserError

Rules = Sequence[tuple[str, str | Sequence[str] | None]]

# Read in order; a mesh axis is given to one axis of an array only. Activations name `batch` first,
# which leaves their `embed` whole, while parameters' `embed` is split over `fsdp`.
RULES: Rules = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("embed", "fsdp"),
    ("patch", None),
    ("layers", None),
    ("length", None),
)


class Partitioner:
    """A mesh and a rules table: gives every array its sharding."""

    def __init__(self, mesh: Mesh, rules: Rules = RULES):
        self.mesh = mesh
        self.rules = tuple((name, tuple(to) if isinstance(to, list) else to) for name, to in rules)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Within it, modules' and losses' logical constraints refer to this mesh and table."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    @property
    def replicated(self) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """The leading axis is split over the mesh axes of `batch`; the others are whole."""
        return NamedSharding(self.mesh, nn.logical_to_mesh_axes(("batch",), self.rules))

    @property
    def batch_shards(self) -> int:
        """The number of shards of a batch, whose size must be a multiple of it."""
        axes = jax.tree.leaves(tuple(self.batch.spec))
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def shardings(self, boxed: Any) -> Any:
        """Shardings for a tree of parameters that carry logical axis names (or none)."""
        specs = nn.get_partition_spec(boxed)
        return nn.logical_to_mesh_sharding(specs, self.mesh, self.rules)

    def abstract(self, boxed: Any) -> Any:
        """Shapes of parameters that carry logical axis names, with their shardings, unboxed."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(nn.meta.unbox, boxed),
            self.shardings(boxed),
        )

    def put_batch(self, batch: Any) -> Any:
        """Makes global arrays, split by `batch`, of this process's rows of each array."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batch, x), batch)

    def put_whole(self, batch: Any) -> Any:
        """Makes global arrays, split by `batch`, of whole arrays that every process has."""
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, self.batch, lambda rows: x[rows]), batch
        )

    def share(self) -> tuple[int, int]:
        """The index of the part of a batch that this process holds, and the number of parts.

        Processes whose devices differ only in the other mesh axes hold the same part.

        Raises:
          UserError: some processes hold parts that overlap without being the same.
        """
        parts: dict[int, set[int]] = {}
        for device, (rows,) in self.batch.devices_indices_map((self.batch_shards,)).items():
            parts.setdefault(device.process_index, set()).update(range(self.batch_shards)[rows])
        distinct = sorted({tuple(sorted(part)) for part in parts.values()})
        if sum(map(len, distinct)) != self.batch_shards or len(set(map(len, distinct))) > 1:
            raise UserError(
                f"mesh {dict(self.mesh.shape)}: processes hold unequal parts of a batch; choose "
                "config.mesh.tensor so that it divides the devices of a process, or is a multiple"
            )
        own = parts.get(jax.process_index())
        if own is None:
            raise UserError(
                f"mesh {dict(self.mesh.shape)} leaves out all devices of process "
                f"{jax.process_index()}; config.mesh.data=-1 takes all there are"
            )
        return distinct.index(tuple(sorted(own))), len(distinct)


def bytes_per_device(tree: Any) -> int:
    """Bytes that each device holds of a tree of sharded arrays, or of their shapes."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def undivided(shapes: Any, shardings: Any) -> list[str]:
    """Names each array that has an axis which its sharding does not divide."""
    problems = []
    paths = jax.tree_util.tree_flatten_with_path(shapes)[0]
    for (path, leaf), sharding in zip(paths, jax.tree.leaves(shardings), strict=True):
        try:
            sharding.shard_shape(leaf.shape)
        except ValueError:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            problems.append(
                f"{name} {list(leaf.shape)} over {sharding.spec} of {sharding.mesh.shape}"
            )
    return problems
