"""Statements about pairs of images, true or false: NLVR2's files (arXiv 1811.00491)."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Lines, Rows, fields, refuse, twice
from coca_jax.errors import UserError

TRUTHS = {"True": "true", "False": "false"}


def is_pairs(first: Any) -> bool:
    """Whether this is the first object of a file of NLVR2's."""
    return isinstance(first, dict) and "identifier" in first and "sentence" in first


def pair_rows(path: str | os.PathLike) -> Rows:
    """A row for each pair of images: `images`, `statements`, `truths` and `identifiers`.

    The images lie in the folder itself, in that of the split, or, as those of training do, in the
    one of a hundred folders that their `directory` says.

    Args:
      path: of a file with a JSON object a line: `identifier` (split, set, pair and sentence),
        `sentence` and `label`.

    Raises:
      UserError: it is no such file, or has a statement twice.
    """
    by_pair: dict[str, dict[str, Any]] = {}
    identifiers = []
    for number, line in Lines(path):
        where = f"{path}:{number}"
        identifier, statement, label = fields(where, line, identifier=str, sentence=str, label=str)
        if label not in TRUTHS:
            raise UserError(f"{where}: label is {label!r}; it should be True or False")
        identifiers.append(identifier)
        pair, _, _ = identifier.rpartition("-")
        if pair.count("-") != 2:
            raise UserError(f"{where}: identifier is {identifier!r}; it should be like dev-850-0-0")
        empty = {
            "images": _images(where, pair, line),
            "image_id": pair,
            "statements": [],
            "truths": [],
            "identifiers": [],
        }
        row = by_pair.setdefault(pair, empty)
        row["statements"].append(statement)
        row["truths"].append(TRUTHS[label])
        row["identifiers"].append(identifier)
    refuse(path, "of statements are there twice", twice(identifiers))
    return Rows(list(by_pair.values()), "pairs of images")


def _images(where: str, pair: str, line: dict[str, Any]) -> list[tuple[str, ...]]:
    """The left image and the right one, each with the places where it may be."""
    split = pair.partition("-")[0]
    folders = ["", split]
    if "directory" in line:
        (directory,) = fields(where, line, directory=Id)
        folders += [str(directory), os.path.join(split, str(directory))]
    return [
        tuple(os.path.join(folder, f"{pair}-img{side}.png") for folder in folders)
        for side in (0, 1)
    ]
