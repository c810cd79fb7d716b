"""The index of a folder's images, which `coca search` and `coca serve` bring up to date."""

import argparse
import functools
import os
from collections.abc import Callable
from typing import Any


def require_local(*folders: str | None) -> None:
    """Refuses folders of images and indices at a URL now, rather than after loading a model."""
    from coca_jax.image_search.image_index import local_folder

    for folder in filter(None, folders):
        local_folder(folder)


def updated_index(options: argparse.Namespace, model: Any) -> tuple[str | os.PathLike, Any, Any]:
    """The index of the folder `options.images`, brought up to date with a progress bar.

    Returns:
      Its place, the `ImageIndex`, and what `ImageIndex.update` returns.
    """
    from coca_jax.image_search import ImageIndex
    from coca_jax.image_search.image_index import default_place

    def embed(paths: list) -> tuple:
        pixels, errors = model.read_images(paths)
        return model.encode_image(pixels) if len(pixels) else None, errors

    place = options.index or default_place(model.source, options.images)
    index = ImageIndex(place, options.images, model.source.identity)
    return place, index, index.update(embed, progress("indexing", "image"))


def progress(title: str, unit: str) -> Callable:
    """Makes a progress bar around what is iterated over."""
    import tqdm

    return functools.partial(tqdm.tqdm, desc=title, unit=unit, disable=None, leave=False)
