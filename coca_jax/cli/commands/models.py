"""The subcommands that use a trained model."""

import argparse
import os
import sys

from coca_jax.cli.commands.batches import caption_data
from coca_jax.cli.commands.configs import load_model
from coca_jax.cli.commands.indexing import progress, require_local, updated_index
from coca_jax.cli.options import BEAM_OPTIONS, CAPTION_OPTIONS, DATA_DEFAULTS, SAMPLING_OPTIONS
from coca_jax.cli.streams import is_read, print_json
from coca_jax.errors import Incomplete, UserError
from coca_jax.io.messages import counted
from coca_jax.io.paths import join
from coca_jax.io.visible import visible

BATCH = 64  # images read at a time


def caption(options: argparse.Namespace) -> None:
    """Captions images, and prints one JSON line per image; or captions a data set."""
    settings = {key: getattr(options, key) for key in CAPTION_OPTIONS}
    settings = {key: value for key, value in settings.items() if value is not None}
    if bool(options.images) == bool(options.data):
        raise UserError("give either image files, or --data and --output")
    if options.data:
        if not options.output:
            raise UserError("--data needs --output, a folder for the captions")
        caption_data(options, _method(settings), settings)
        return
    _require_no_data_options(options)
    if folder := next(filter(os.path.isdir, options.images), None):
        print(
            f"{visible(folder)} is a folder: one of its images is captioned, as a frame of a "
            "video; for all of them use --data",
            file=sys.stderr,
        )
    model, unreadable = load_model(options.model), 0
    for start in range(0, len(options.images), BATCH):
        if not is_read():
            return
        pixels, errors = model.read_images(options.images[start : start + BATCH])
        for error in filter(None, errors):
            print(visible(str(error)), file=sys.stderr)
        unreadable += len(errors) - len(pixels)
        captions = model.caption(pixels, _method(settings), **settings) if len(pixels) else []
        paths = options.images[start : start + BATCH]
        readable = [path for path, error in zip(paths, errors, strict=True) if not error]
        for path, best in zip(readable, captions, strict=True):
            line = {"path": path} | _as_json(best)
            if best.others:
                line["others"] = [_as_json(other) for other in best.others]
            print_json(line)
    _require_all(unreadable, len(options.images))


def _require_no_data_options(options: argparse.Namespace) -> None:
    """Refuses what has no effect on image files."""
    given = [name for name, default in DATA_DEFAULTS.items() if getattr(options, name) != default]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{names}: only for --data; captions of image files are printed")


def search(options: argparse.Namespace) -> None:
    """Finds the images that match a text or an image best; prints a JSON line for each."""
    from coca_jax.image_search.nearest import import_faiss

    if (options.text is None) == (options.image is None):
        raise UserError("give either a text to search for, or --image")
    if options.embeddings and options.index:
        raise UserError("--index is for --images; --embeddings are an index themselves")
    if options.backend == "faiss":
        import_faiss()  # fails now rather than after embedding
    require_local(options.images, options.index)
    model = load_model(options.model)
    if options.text is None:
        query = model.encode_image(model.preprocess([options.image]))[0]
    else:
        query = model.encode_text(model.tokenize([options.text]))[0]
    if options.embeddings:
        _search_embeddings(options, model, query)
    else:
        _search_images(options, model, query)


def _search_embeddings(options: argparse.Namespace, model, query) -> None:
    from coca_jax.image_search.stored_embeddings import StoredEmbeddings

    stored = StoredEmbeddings(options.embeddings, model.identity, progress("reading", "file"))
    print(counted(len(stored), "embeddings"), file=sys.stderr)
    for match in stored.search(query, options.top, options.backend):
        print_json(match._asdict())


def _search_images(options: argparse.Namespace, model, query) -> None:
    place, index, counts = updated_index(options, model)
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    print(f"{place}: {counted(len(index), 'images')} ({summary})", file=sys.stderr)
    if index.hidden:
        print(counted(index.hidden, "hidden items are left out"), file=sys.stderr)
    for name in index.unreadable:
        path = visible(join(options.images, name))
        print(f"{path} cannot be read as an image", file=sys.stderr)
    for score, path in index.search(query, options.top, options.backend):
        print_json({"path": str(path), "similarity": score})
    _require_all(len(index.unreadable), len(index) + len(index.unreadable))


def _method(settings: dict) -> str:
    """The decoding method that these settings belong to; greedy if they belong to none."""
    if any(key in settings for key in BEAM_OPTIONS):
        return "beam"
    return "sample" if any(key in settings for key in SAMPLING_OPTIONS) else "greedy"


def _require_all(unreadable: int, total: int) -> None:
    """Raises `Incomplete` if some images could not be read."""
    if unreadable:
        raise Incomplete(f"{unreadable:,} of {total:,} images could not be read")


def _as_json(caption) -> dict:
    return {"caption": caption.text, "log_probability": caption.log_probability}
