"""What tells the data of a run from others, so that data which changed since are not mixed in.

A fingerprint has a list of shards for each data set: their names, sizes, numbers of records and
checksums, as `Source.shards` says them. It is the same wherever the data lie. Names are for the
messages: shards that were only renamed hold the same records in the same order.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coca_jax.data.examples import Part
from coca_jax.data.from_config import sections, where
from coca_jax.data.sources.base import Shard

Fingerprint = dict[str, list[Shard]]  # by the section of the configuration
SHOWN = 3  # shards of each kind of change that are named


def fingerprint(data: Any, parts: Sequence[Part]) -> Fingerprint:
    """The shards of each data set, with what else decides which records there are.

    Args:
      data: `config.data`, as options or as it stands in the configuration.
      parts: of the mixture, in the order of `sections`.
    """
    return {
        where(name): [*part.source.shards(), *_more(part)]
        for name, part in zip(sections(data), parts, strict=True)
    }


def parse(stored: Any) -> Fingerprint | None:
    """A fingerprint that was stored as JSON; None if it is none."""
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


def digest(found: Fingerprint) -> int:
    """A checksum of all of it, but for the names."""
    return zlib.crc32(repr([[s[1:] for s in shards] for shards in found.values()]).encode())


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Says what differs between two fingerprints, a line for each data set; none if nothing does.

    Lines name the first few shards that were removed, added, changed or moved.
    """
    lines = []
    for name in before | now:
        old, new = before.get(name, []), now.get(name, [])
        if [shard[1:] for shard in old] != [shard[1:] for shard in new]:
            lines.append(f"config.{name}: {'; '.join(_differences(old, new))}")
    return lines


def _more(part: Part) -> Iterator[Shard]:
    if names := part.source.class_names:
        text = "\n".join(names).encode("utf-8", "surrogatepass")
        yield Shard("names of classes", len(text), len(names), f"{zlib.crc32(text):08x}")
    if len(part.left_out):
        content = np.asarray(part.left_out, np.int64).tobytes()
        yield Shard("exclude_list", len(content), len(part.left_out), f"{zlib.crc32(content):08x}")


def _differences(old: Sequence[Shard], new: Sequence[Shard]) -> Iterator[str]:
    """The kinds of changes between shards of one data set."""
    gone, come = _surplus(old, new), _surplus(new, old)
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
        places = zip(old, new, strict=True)
        moved = [shard.name for there, shard in places if there[1:] != shard[1:]]
        yield _named("in another order", moved)


def _surplus(some: Sequence[Shard], others: Sequence[Shard]) -> list[Shard]:
    """Those of some that have no equal among others, but for its name."""
    left = Counter(shard[1:] for shard in others)
    found = []
    for shard in some:
        if left[shard[1:]]:
            left[shard[1:]] -= 1
        else:
            found.append(shard)
    return found


def _change(old: Shard, new: Shard) -> str:
    if old.records != new.records:
        return f"{new.name} ({old.records:,} records then, {new.records:,} now)"
    if old.size != new.size:
        return f"{new.name} ({old.size:,} bytes then, {new.size:,} now)"
    return f"{new.name} (other content of the same size)"


def _named(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{kind}: {', '.join(names[:SHOWN])}{more}"
