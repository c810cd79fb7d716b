"""Reads SNLI-VE's files of hypotheses about images (arXiv 1901.06706)."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Lines, Rows, fields, reject_ids
from coca_jax.errors import UserError
from coca_jax.io.messages import counted, duplicates

JUDGEMENTS = ("entailment", "neutral", "contradiction")
UNDECIDED = "-"  # the annotators did not agree
IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID")  # the second is how the first release spelled it


def is_entailment(first: Any) -> bool:
    """Whether this is the first object of one of SNLI-VE's files."""
    return isinstance(first, dict) and "sentence2" in first and any(k in first for k in IMAGE_KEYS)


def entailment_rows(path: str | os.PathLike) -> Rows:
    """Returns a row for each image, with `hypotheses`, `judgements` and `pair_ids`.

    Args:
      path: a file with one JSON object per line: `Flickr30K_ID`, `pairID`, `sentence2` (the
        hypothesis) and `gold_label`. Lines with the label `-` are left out.

    Raises:
      UserError: the file has another format, a duplicate pair, an unknown label or no labeled pair.
    """
    by_image: dict[Any, dict[str, Any]] = {}
    pairs, undecided = [], 0
    for number, line in Lines(path):
        where = f"{path}:{number}"
        key = IMAGE_KEYS[isinstance(line, dict) and IMAGE_KEYS[1] in line]
        kinds = {key: Id, "pairID": Id, "sentence2": str, "gold_label": str}
        image, pair, hypothesis, judgement = fields(where, line, **kinds)
        pairs.append(pair)
        if judgement == UNDECIDED:
            undecided += 1
            continue
        if judgement not in JUDGEMENTS:
            labels = ", ".join((*JUDGEMENTS, UNDECIDED))
            raise UserError(f"{where}: gold_label is {judgement!r}; it should be one of {labels}")
        empty = {
            "image": f"{image}.jpg",
            "image_id": image,
            "hypotheses": [],
            "judgements": [],
            "pair_ids": [],
        }
        row = by_image.setdefault(image, empty)
        row["hypotheses"].append(hypothesis)
        row["judgements"].append(judgement)
        row["pair_ids"].append(pair)
    reject_ids(path, "of pairs are duplicated", duplicates(pairs))
    if not by_image:
        raise UserError(f"{path} has no hypothesis with a gold label")
    left_out = counted(undecided, "pairs without a gold label") if undecided else ""
    return Rows(list(by_image.values()), left_out=left_out)
