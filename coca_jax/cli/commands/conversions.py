"""The subcommands that convert weights and score files of results."""

import argparse
import functools
import os
import shlex
import sys

from coca_jax.errors import UserError


def convert(options: argparse.Namespace) -> None:
    """Converts weights from or to another project, or to another type."""
    from coca_jax.interop.convert import INT8, import_open_clip

    if options.to == "coca":
        _write_own(options)
        return
    if options.dtype == INT8:
        raise UserError(_no_int8(options))
    if options.to:
        _export(options)
        return
    if options.license:
        raise UserError("--license is for --to, with a folder as OUT")
    shifted = None if options.cls_mask is None else options.cls_mask == "released"
    report = functools.partial(print, file=sys.stderr)
    count = import_open_clip(
        options.input, options.variant, options.output, shifted, report, options.dtype
    )
    print(f"{options.output}: {count:,} parameters")


def _no_int8(options: argparse.Namespace) -> str:
    """The message that int8 is for models of this project, with the commands that lead there."""
    begin = "--dtype int8 is for --to coca"
    if options.to:
        return f"{begin}; OpenCLIP has no such weights"
    given = {"--variant": options.variant, "--cls-mask": options.cls_mask}
    words = [word for option in given.items() if option[1] for word in option]
    first = shlex.join(["coca", "convert", "--from", "open_clip", *words, options.input, "FLOATS"])
    second = shlex.join(
        ["coca", "convert", "--to", "coca", "--dtype", "int8", "FLOATS", options.output]
    )
    return f"{begin}, which takes a model of this project. Run `{first}`, then `{second}`"


def _write_own(options: argparse.Namespace) -> None:
    """Writes a model of this project as a folder of its own."""
    from coca_jax.interop.convert import write_own

    for name in ("variant", "cls_mask", "license"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} is for models of other projects")
    count = write_own(options.input, options.output, options.dtype)
    print(f"{options.output}: {count:,} parameters as {options.dtype}")


def _export(options: argparse.Namespace) -> None:
    """Writes a model's weights to a file, or a whole folder as hubs keep it."""
    from coca_jax.interop.convert import export_open_clip
    from coca_jax.interop.publish import export_folder
    from coca_jax.interop.shards import ENDS

    if options.variant:
        raise UserError("--variant is for --from; an exported model has its own")
    if options.cls_mask:
        raise UserError("--cls-mask is for --from; an exported model has its own")
    if options.output.lower().endswith(ENDS):
        if options.license:
            raise UserError("--license is for a folder as OUT, which has a model card")
        notes = export_open_clip(options.input, options.output, options.dtype)
    else:
        license_id = options.license or "other"
        notes = export_folder(options.input, options.output, options.dtype, license_id)
    for note in notes:
        print(f"in OpenCLIP: {note}")
    print(options.output)


def average(options: argparse.Namespace) -> None:
    """Writes a model whose parameters are a weighted mean of those of several models."""
    from coca_jax.interop.average import average, ema, find_models, uniform

    paths, in_order = options.models, options.ema is not None
    models = find_models(paths, in_order=in_order)
    weights = options.weights or (ema(options.ema) if in_order else uniform)(len(models))
    if options.alpha is not None:
        weights = [1 - options.alpha, options.alpha]
    if len(weights) != len(models):
        option = "--weights" if options.weights else "--alpha"
        raise UserError(f"{option} is of {len(weights)} models, and there are {len(models)}")
    total = sum(weights)
    weights = [weight / total for weight in weights]
    for model, weight in zip(models, weights, strict=True):
        print(f"{weight:8.4f}  {model.title}")
    count = average(models, weights, options.output, options.dtype)
    print(f"{options.output}: {count:,} parameters, the mean of {len(models)} models")


def push(options: argparse.Namespace) -> None:
    """Uploads a model's folder to the Hugging Face hub."""
    from coca_jax.interop.publish import push

    report = functools.partial(print, file=sys.stderr)
    print(push(options.folder, options.name, options.private, report))


def score(options: argparse.Namespace) -> None:
    """Scores a file of captions or answers as the COCO and VQA servers do."""
    from coca_jax.evaluate.challenges import score_results
    from coca_jax.evaluate.results import format_table, write_json

    metrics = score_results(options.annotations, options.results, options.split)
    if options.json:
        write_json(metrics, options.json)
    print(format_table({os.path.basename(options.results): metrics}))
