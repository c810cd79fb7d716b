"""Mixtures: which record of which data set has which index in the endless stream.

The record of an index is a pure function of (sizes, weights, seed, index): nothing is counted along
the way, and no list of the records is ever made.

Grain shuffles each data set. `grain.MapDataset.mix` does not mix them: its order is periodic, so
that with few rows of a batch per process one process would see one data set only (two processes, a
batch of two, weights 500, 333, 167: one has nothing but the first). It also ends with the shortest
data set, and does not give a record's epoch, which captions in turn need.
"""

import math
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from coca_jax.data.neighborhoods import NeighborhoodOrder
from coca_jax.errors import UserError

PERIOD = 1000  # consecutive indices among which every data set has exactly its share
# Prime to PERIOD, and near its golden section: multiples of it modulo PERIOD hit every residue once
# a period, and are spread evenly over every few neighbors and every residue class of indices, so
# that each host's rows of the batches have about the same mixture. That does not hold if the batch
# size shares a large factor with PERIOD and the host has few rows: it gets the same residues each
# time.
STRIDE = 617


class RecordRef(NamedTuple):
    """A record of one of the data sets."""

    source: int  # which data set
    index: int  # of the record in it
    epoch: int  # the number of times that all of its records were drawn before


class Mixture:
    """Data sets mixed by weight, each in a new random order in every epoch of its own.

    Args:
      sizes: numbers of records, by name of the data set.
      weights: of the data sets, by name; all of them 0: by their sizes.
      seed: of the order.
      neighborhoods: (order, size) of data sets whose records are drawn with their neighbors, by
        name; see `coca_jax.data.neighborhoods`.

    Raises:
      UserError: a data set is empty, or its share is too small to be counted in thousandths.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        seed: int,
        neighborhoods: Mapping[str, tuple[Int64[np.ndarray, " _"], int]] = MappingProxyType({}),
    ):
        import grain

        if empty := [name for name, size in sizes.items() if size < 1]:
            raise UserError(f"data set {empty[0]!r} has no records")
        self.size = sum(sizes.values())
        # A single data set has the name "": its order is that of the seed alone.
        seeds = {name: (seed + zlib.crc32(name.encode())) % 2**32 for name in sizes}
        self._orders = [
            NeighborhoodOrder(*neighborhoods[name], seeds[name])
            if name in neighborhoods
            else grain.MapDataset.range(size).seed(seeds[name]).shuffle()
            for name, size in sizes.items()
        ]
        self._sizes = list(sizes.values())
        self._shares = shares(sizes, weights)
        turns = np.arange(PERIOD) * STRIDE % PERIOD
        self._sources = np.searchsorted(np.cumsum(self._shares), turns, side="right")
        drawn = self._sources[:, None] == np.arange(len(sizes))
        self._before = np.cumsum(drawn, axis=0) - drawn  # draws of each earlier in the period

    def __getitem__(self, index: int) -> RecordRef:
        """The record with an index in the stream, which has no end."""
        period, offset = divmod(index, PERIOD)
        source = int(self._sources[offset])
        draw = period * self._shares[source] + int(self._before[offset, source])
        return RecordRef(source, self._orders[source][draw], draw // self._sizes[source])


def shares(sizes: Mapping[str, int], weights: Mapping[str, float]) -> list[int]:
    """The number of indices of each data set in a period: the weights, rounded to sum up to it.

    Raises:
      UserError: a data set would never be drawn, or only some weights are 0.
    """
    if not any(weights.values()):
        weights = sizes
    if zero := [name for name in sizes if not 0 < weights[name] < math.inf]:
        raise UserError(
            f"the weight of data set {zero[0]!r} is {weights[zero[0]]}: weights are positive, or "
            "all of them 0 to mix by size"
        )
    total = sum(weights.values())
    exact = {name: PERIOD * weight / total for name, weight in weights.items()}
    rounded = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: rounded[name] - exact[name])
    for name in by_remainder[: PERIOD - sum(rounded.values())]:
        rounded[name] += 1
    if never := [name for name, share in rounded.items() if not share]:
        raise UserError(
            f"data set {never[0]!r} would be {exact[never[0]] / PERIOD:.2g} of the mixture; give "
            f"it a weight of at least 1/{PERIOD} of all"
        )
    return list(rounded.values())


def describe(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, Any]:
    """Each data set's share of the examples, and its passes through its records in an epoch."""
    total = sum(sizes.values())
    return {
        name: {"share": share / PERIOD, "passes": share / PERIOD * total / sizes[name]}
        for name, share in zip(sizes, shares(sizes, weights), strict=True)
    }
