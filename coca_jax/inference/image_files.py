"""Images that a user names or gives, with one message for each file that cannot be read."""

import os
import pathlib
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.folder import read_image_files
from coca_jax.data.transforms import images, multi_image
from coca_jax.errors import UserError
from coca_jax.models.config import ImageConfig
from coca_jax.patches import Patches, room, stack

Paths = str | os.PathLike | Sequence[str | os.PathLike]  # one, or several


def read_images(
    paths: Paths, config: ImageConfig, num_frames: int
) -> tuple[UInt8[np.ndarray, "b *num_frames h w 3"] | Patches, list[UserError | None]]:
    """Reads image files as a model takes them, not yet normalized, but those that it cannot read.

    Args:
      paths: of images; or of videos, or folders of their frames.
      config: how large the model's images are, and how they come to be so.
      num_frames: how many to take of each, evenly spaced; more than one have their own axis.

    Returns:
      The images that could be read, and for each path None, or why it could not.

    Raises:
      UserError: several frames, of a model that takes images as they are.
    """
    target, resizing = config.target, images.Resizing.of(config)
    if num_frames > 1 and config.sequence_lengths:
        raise UserError(
            f"num_frames={num_frames}: this model takes images as they are, each of its own "
            "size, and no clips of several frames"
        )
    rows, errors = [], []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        try:
            decoded = read_image(path, num_frames)
        except UserError as error:
            errors.append(error)
            continue
        sized = [images.prepare(image, target, resizing) for image in decoded]
        rows.append(multi_image.stacked(sized))
        errors.append(None)
    return stack(rows) if rows else room(0, target, num_frames), errors


def read_image(path: str | pathlib.Path, num_frames: int = 1) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Decodes an image; or evenly spaced frames of a video, or of a folder of frames.

    Args:
      path: of the file or folder.
      num_frames: how many images to return.

    Raises:
      UserError: it cannot be read; the cause is an OSError if that was not the content.
    """
    path = os.fspath(path)
    try:
        _refuse_devices(path)
        return multi_image.decode_images(read_image_files(path), num_frames)
    except (OSError, BadExample, UserError) as error:
        raise UserError(f"{path} cannot be read as an image: {_reason(error)}") from error


def require_pixels(pixels: Any, config: ImageConfig, several: bool) -> None:
    """Raises a UserError if these are not images of the model's size, or patches of them.

    Args:
      pixels: what a model is called with.
      config: how large the model's images are.
      several: whether an example may have several images.
    """
    if isinstance(pixels, Patches):
        shape, wanted, axes = np.shape(pixels.patches), (3 * config.patch**2,), (2,)
    else:
        shape, wanted, axes = np.shape(pixels), (*config.pixels, 3), (1, 2) if several else (1,)
    if len(shape) - len(wanted) in axes and shape[-len(wanted) :] == wanted:
        return
    size = ", ".join(map(str, (*config.pixels, 3)))
    rows = f"[b, {size}]" + f" or [b, images, {size}]" * several
    rows = "`Patches`" if config.sequence_lengths else rows
    raise UserError(
        f"pixels have the shape {[*shape]}, and should be {rows}: `preprocess` makes them of files"
    )


def _refuse_devices(path: str) -> None:
    """A named pipe without a writer, or a device, would be read forever.

    What a shell passes as `<(command)` ends.
    """
    if os.path.exists(path) and not path.startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin")):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError("it is neither a file nor a folder")


def _reason(error: Exception) -> str:
    """The error's message without the path, which the caller names."""
    if isinstance(error, BadExample):
        return error.reason
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
