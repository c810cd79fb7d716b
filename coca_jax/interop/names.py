"""Finds a model's tensors in a file, through nesting and through the prefixes that wrappers add.

DDP puts `module.` before every name, `torch.compile` puts `_orig_mod.`, FSDP and checkpointing put
words with an underscore before and within names, and trainers put the name of their attribute
(`model.`). The names that the model has decide what is a wrapper's word: a part of one of them is
never removed.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from coca_jax.errors import UserError

Path = tuple[str, ...]  # keys of the dictionaries around a tensor; the last is its name

# Where training scripts keep the weights; any other key is a second choice, such as `ema`.
USUAL = {"state_dict", "model_state_dict", "model", "module", "weights", "params", "net", "network"}
SHOWN = 5  # names in a message


@dataclasses.dataclass(frozen=True)
class Match:
    """The places of a model's tensors."""

    places: dict[str, Path]  # by the model's name
    surplus: list[Path]  # next to them and not of the model
    prefix: str  # what all names of the model begin with in the file, wrappers' words left out


def leaves(tree: Any) -> Iterator[tuple[Path, Any]]:
    """All that is not a dictionary, list or tuple, or is empty, with its place; in order."""
    stack: list[tuple[Path, Any]] = [((), tree)]
    around: set[int] = set()  # a tree that holds itself is walked once
    while stack:
        path, value = stack.pop()
        if not isinstance(value, dict | list | tuple) or not value:
            yield path, value
        elif id(value) not in around:
            around.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [((*path, str(key)), child) for key, child in reversed(list(items))]


def match(places: Collection[Path], expected: Collection[str]) -> Match:
    """Finds the place of each name of a model.

    Args:
      places: of all tensors of a file.
      expected: the names of the model's tensors.

    Returns:
      The places under the prefix that has most of the names; of several, the most usual one.

    Raises:
      UserError: several prefixes are as good, or a name has several places under one prefix.
    """
    names = {tuple(name.split(".")): name for name in expected}
    real = {part for parts in names for part in parts}
    words = {place: _words(place, real) for place in places}
    votes: dict[Path, dict[str, list[Path]]] = collections.defaultdict(dict)
    for place, parts in words.items():
        for cut in range(len(parts)):
            if name := names.get(parts[cut:]):
                votes[parts[:cut]].setdefault(name, []).append(place)
    if not votes:
        return Match({}, list(places), "")
    prefix = _best({prefix: len(found) for prefix, found in votes.items()})
    for name, found in votes[prefix].items():
        if len(found) > 1:
            raise UserError(f"{name} is there {len(found)} times: {listed(map('.'.join, found))}")
    matched = {name: found for name, (found,) in votes[prefix].items()}
    taken, folders = set(matched.values()), {place[:-1] for place in matched.values()}
    surplus = [
        place
        for place, parts in words.items()
        if place not in taken and place[:-1] in folders and parts[: len(prefix)] == prefix
    ]
    return Match(matched, surplus, ".".join(prefix))


def below(places: Collection[Path], matched: Match, expected: Collection[str]) -> dict[str, Path]:
    """The places under a match's prefix, by their names there, without wrappers' words.

    Args:
      places: of all tensors of a file.
      matched: what `match` returned for them.
      expected: the names that it was given.
    """
    real = {part for name in expected for part in name.split(".")}
    prefix = tuple(matched.prefix.split(".")) if matched.prefix else ()
    words = {place: _words(place, real) for place in places}
    return {
        ".".join(parts[len(prefix) :]): place
        for place, parts in words.items()
        if parts[: len(prefix)] == prefix
    }


def listed(items: Iterable[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + more


def _words(place: Path, real: set[str]) -> Path:
    """The parts of a place, without those that wrappers put into its name."""
    *around, name = place

    def is_wrappers(part: str) -> bool:
        return part not in real and (part.startswith("_") or part == "module")

    return (*around, *(part for part in name.split(".") if not is_wrappers(part)))


def _best(counts: dict[Path, int]) -> Path:
    """The most usual prefix of those that have most of a model's names.

    Not simply the one that has the most: where the weights lack one, an optimizer's averages may
    have it.
    """

    def rank(prefix: Path) -> tuple[int, int, int]:
        return sum(part not in USUAL for part in prefix), -counts[prefix], len(prefix)

    most = max(counts.values())
    first, *others = sorted((p for p, count in counts.items() if 2 * count >= most), key=rank)
    if others and rank(others[0]) == rank(first):
        both = " and ".join(repr(".".join(prefix)) for prefix in (first, others[0]))
        raise UserError(
            f"the model's names occur under {both}: keep only the weights that you want"
        )
    return first
