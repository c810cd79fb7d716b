"""Fingerprints of a run's data, which show whether the data changed since the run stopped.

A fingerprint has a list of shards for each data set: names, sizes, numbers of records and
checksums, from `Source.shards`. It is the same wherever the data lie. Names are for messages only:
shards that were renamed hold the same records in the same order.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coca_jax.data.examples import DataSet
from coca_jax.data.from_config import section_key, sections
from coca_jax.data.sources.base import Shard
from coca_jax.data.sources.joined import JoinedSource

Fingerprint = dict[str, list[Shard]]  # by the section of the configuration
SHOWN = 3  # shards of each kind of change that are named


def fingerprint(data: Any, data_sets: Sequence[DataSet]) -> Fingerprint:
    """The shards of each data set, its class names, joined results and excluded records.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      data_sets: of the mixture, in the order of `sections`.
    """
    return {
        section_key(name): [*data_set.source.shards(), *_other_parts(data_set)]
        for name, data_set in zip(sections(data), data_sets, strict=True)
    }


def parse(stored: Any) -> Fingerprint | None:
    """Reads a fingerprint from JSON; None if it is damaged."""
    try:
        return {
            name: [
                Shard(str(title), int(size), int(count), str(checksum))
                for title, size, count, checksum in shards
            ]
            for name, shards in stored.items()
        }
    except (AttributeError, TypeError, ValueError):
        return None


def digest(data: Fingerprint) -> int:
    """A checksum of a fingerprint without its names."""
    return zlib.crc32(repr([[s[1:] for s in shards] for shards in data.values()]).encode())


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Lines on how two fingerprints differ, one for each data set that changed.

    A line names the first few shards that were removed, added, changed or moved.
    """
    lines = []
    for name in before | now:
        old, new = before.get(name, []), now.get(name, [])
        if [shard[1:] for shard in old] != [shard[1:] for shard in new]:
            lines.append(f"config.{name}: {'; '.join(_differences(old, new))}")
    return lines


def _other_parts(data_set: DataSet) -> Iterator[Shard]:
    if names := data_set.source.class_names:
        text = "\n".join(names).encode("utf-8", "surrogatepass")
        yield Shard("names of classes", len(text), len(names), f"{zlib.crc32(text):08x}")
    if isinstance(data_set.source, JoinedSource):
        yield from data_set.source.joined_parts()
    yield from _list("exclude_list", data_set.excluded)
    yield from _list("neighborhoods", data_set.order)


def _list(name: str, numbers: Any) -> Iterator[Shard]:
    """A list of record numbers as a shard; none if it is empty."""
    if len(numbers):
        content = np.asarray(numbers, np.int64).tobytes()
        yield Shard(name, len(content), len(numbers), f"{zlib.crc32(content):08x}")


def _differences(old: Sequence[Shard], new: Sequence[Shard]) -> Iterator[str]:
    """Phrases on what changed between the shards of one data set."""
    gone, come = _without(old, new), _without(new, old)
    before = {shard.name: shard for shard in gone}
    changed = [(before[shard.name], shard) for shard in come if shard.name in before]
    names = {shard.name for shard, _ in changed}
    removed = [shard.name for shard in gone if shard.name not in names]
    added = [shard.name for shard in come if shard.name not in names]
    if removed:
        yield _named("removed", removed)
    if added:
        yield _named("added", added)
    if changed:
        yield _named("changed", [_change(*pair) for pair in changed])
    if not gone and not come:
        pairs = zip(old, new, strict=True)
        moved = [shard.name for before, shard in pairs if before[1:] != shard[1:]]
        yield _named("in another order", moved)


def _without(shards: Sequence[Shard], removed: Sequence[Shard]) -> list[Shard]:
    """The shards without one for each of the removed ones that is equal, but for its name."""
    unmatched = Counter(shard[1:] for shard in removed)
    rest = []
    for shard in shards:
        if unmatched[shard[1:]]:
            unmatched[shard[1:]] -= 1
        else:
            rest.append(shard)
    return rest


def _change(old: Shard, new: Shard) -> str:
    if old.records != new.records:
        return f"{new.name} ({old.records:,} records then, {new.records:,} now)"
    if old.size != new.size:
        return f"{new.name} ({old.size:,} bytes then, {new.size:,} now)"
    return f"{new.name} (other content of the same size)"


def _named(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{kind}: {', '.join(names[:SHOWN])}{more}"
