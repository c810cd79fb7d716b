"""Devices to mesh, logical axes to mesh axes."""

from coca_jax.distributed.mesh import make_mesh
from coca_jax.distributed.sharding import RULES, Partitioner

__all__ = ["RULES", "Partitioner", "make_mesh"]
