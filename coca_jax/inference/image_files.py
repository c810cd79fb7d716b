"""Reads image files that a user names, with one message for each that cannot be read."""

import os
import pathlib
import stat

import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.folder import read_image_files
from coca_jax.data.transforms import multi_image
from coca_jax.errors import UserError


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


def _refuse_devices(path: str) -> None:
    """A named pipe without a writer, or a device, would be read for ever.

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
