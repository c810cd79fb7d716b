"""Mixtures: which record of which data set stands at which place of the endless stream.

A place's record is a pure function of (sizes, weights, seed, place): nothing is counted along the
way, and no list of the records is ever made.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from coca_jax.errors import UserError

PERIOD = 1000  # places in which every part has exactly its share
# Prime to PERIOD, and near to its golden section: multiples of it modulo PERIOD hit every residue
# once a period, and are spread evenly over every few neighbours and every residue class of places,
# so that no host's share of the batches has a mixture of its own.
STRIDE = 617


class Pick(NamedTuple):
    """A record of one part of the mixture."""

    part: int
    index: int  # of the record
    visit: int  # how often all of the part's records were drawn before


class Mixture:
    """Each part shuffled anew every time that it has been gone through, and mixed by weight.

    Args:
      sizes: numbers of records, by name of the part.
      weights: of the parts; 0 for each of them means by their sizes.
      seed: of the order.

    Raises:
      UserError: a part is empty, or its weight is less than half a thousandth of all.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], seed: int):
        import grain

        if empty := [name for name, size in sizes.items() if size < 1]:
            raise UserError(f"data set {empty[0]!r} has no records")
        self.size = sum(sizes.values())
        # A lone part has the name "": its order is that of the seed alone.
        self._orders = [
            grain.MapDataset.range(size).seed((seed + zlib.crc32(name.encode())) % 2**32).shuffle()
            for name, size in sizes.items()
        ]
        self._sizes = list(sizes.values())
        self._shares = shares(sizes, weights)
        turns = np.arange(PERIOD) * STRIDE % PERIOD
        self._parts = np.searchsorted(np.cumsum(self._shares), turns, side="right")
        drawn = self._parts[:, None] == np.arange(len(sizes))
        self._before = np.cumsum(drawn, axis=0) - drawn  # draws of each part earlier in the period

    def __getitem__(self, place: int) -> Pick:
        """The record at a place, of which there is no last one."""
        period, rest = divmod(place, PERIOD)
        part = int(self._parts[rest])
        number = period * self._shares[part] + int(self._before[rest, part])
        return Pick(part, self._orders[part][number], number // self._sizes[part])


def shares(sizes: Mapping[str, int], weights: Mapping[str, float]) -> list[int]:
    """Places of each part in a period: the weights, rounded to sum up to it.

    Raises:
      UserError: a part would never be drawn, or only some weights are 0.
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
    by_rest = sorted(exact, key=lambda name: rounded[name] - exact[name])
    for name in by_rest[: PERIOD - sum(rounded.values())]:
        rounded[name] += 1
    if never := [name for name, share in rounded.items() if not share]:
        raise UserError(
            f"data set {never[0]!r} would be {exact[never[0]] / PERIOD:.2g} of the mixture; give "
            f"it a weight of at least 1/{PERIOD} of all"
        )
    return list(rounded.values())


def describe(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, Any]:
    """Each part's share of the examples, and its passes through its records in an epoch."""
    total = sum(sizes.values())
    return {
        name: {"share": share / PERIOD, "passes": share / PERIOD * total / sizes[name]}
        for name, share in zip(sizes, shares(sizes, weights), strict=True)
    }
