"""Reads NLVR2's files of true and false statements about pairs of images (arXiv 1811.00491)."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Lines, Rows, fields, reject_ids
from coca_jax.errors import UserError
from coca_jax.io.messages import duplicates

TRUTHS = {"True": "true", "False": "false"}


def is_pairs(first: Any) -> bool:
    """Whether this is the first object of one of NLVR2's files."""
    return isinstance(first, dict) and "identifier" in first and "sentence" in first


def pair_rows(path: str | os.PathLike) -> Rows:
    """Returns a row for each pair of images: `images`, `statements`, `truths` and `identifiers`.

    The images may be in the folder of images itself, in a subfolder named after the split, or, in
    training, in either's subfolder that `directory` names.

    Args:
      path: a file with one JSON object per line: `identifier` (split, set, pair and sentence),
        `sentence` and `label`.

    Raises:
      UserError: the file has another format, or a duplicate statement.
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
            raise UserError(
                f"{where}: identifier is {identifier!r}; it should look like dev-850-0-0"
            )
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
    reject_ids(path, "of statements are duplicated", duplicates(identifiers))
    return Rows(list(by_pair.values()), "pairs of images")


def _images(where: str, pair: str, line: dict[str, Any]) -> list[tuple[str, ...]]:
    """The possible paths of the left image, and those of the right one."""
    split = pair.partition("-")[0]
    folders = ["", split]
    if "directory" in line:
        (directory,) = fields(where, line, directory=Id)
        folders += [str(directory), os.path.join(split, str(directory))]
    return [
        tuple(os.path.join(folder, f"{pair}-img{side}.png") for folder in folders)
        for side in (0, 1)
    ]
