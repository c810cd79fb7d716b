"""Features of frozen images: every token of the image encoder's output, kept on disk.

A folder of them holds `tokens.npy` (float16, mapped and not read), `labels.npy` and
`bad_images.npy`. It is written next to its place and renamed, so that it is there whole or not at
all.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tqdm
from jaxtyping import Float16, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.base import Model
from coca_jax.io.files import atomic
from coca_jax.io.stored import left_out


class Features(NamedTuple):
    """Of the examples that have a label."""

    tokens: Float16[np.ndarray, "n t d"]
    labels: Int[np.ndarray, " n"]
    bad_images: int = 0  # how many more could not be read and are left out


def read_features(
    model: Model, batches: Iterable[dict[str, Any]], folder: pathlib.Path
) -> Features:
    """The features in the folder; if it is not there, they are computed first.

    Args:
      model: the model that computes them.
      batches: images with labels; those without one (negative) are left out.
      folder: where they are kept; its name must be unique to this model and these data.

    Raises:
      UserError: no example has a label.
    """
    if (features := _read(folder)) is not None:
        return features
    # Another process may be as fast.
    with contextlib.suppress(FileExistsError), atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        _write(model, batches, temporary)
    if (features := _read(folder)) is None:
        raise UserError(f"{folder} does not hold what has just been written to it")
    return features


def _read(folder: pathlib.Path) -> Features | None:
    """The features in a folder; None if there is none or it is damaged, in which case it goes."""
    if not folder.is_dir():
        return None
    try:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        labels, bad = np.load(folder / "labels.npy"), np.load(folder / "bad_images.npy")
        kinds = (tokens.dtype, labels.dtype.kind, bad.dtype.kind) == (np.float16, "i", "i")
        if kinds and tokens.ndim == 3 and labels.shape == tokens.shape[:1] and bad.shape == ():
            return Features(tokens, labels, int(bad))
        why = "arrays of other shapes"
    except (OSError, ValueError, EOFError) as error:
        why = str(error)
    left_out(folder, f"is damaged ({why}); features are computed again")
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _write(model: Model, batches: Iterable[dict[str, Any]], folder: pathlib.Path) -> None:
    labels, shape, bad = [], (), 0
    with (folder / "tokens").open("wb") as file:
        for batch in tqdm.tqdm(batches, "features", unit="batch", disable=None, leave=False):
            bad += batch.get("bad_image", 0)
            has_label = np.asarray(batch["label"]) >= 0
            if has_label.any():
                tokens = model.image_tokens(batch["image"][has_label])
                shape = tokens.shape[1:]
                file.write(np.asarray(tokens, np.float16).tobytes())
                labels.append(np.asarray(batch["label"])[has_label])
    if not labels:
        raise UserError("a probe needs labels, and no example has one (>= 0)")
    count = sum(map(len, labels))
    # NumPy's header in front of what could not know its length before.
    with (folder / "tokens.npy").open("wb") as file, (folder / "tokens").open("rb") as body:
        header = {"descr": "<f2", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        shutil.copyfileobj(body, file)
    (folder / "tokens").unlink()
    np.save(folder / "labels.npy", np.concatenate(labels))
    np.save(folder / "bad_images.npy", bad)
