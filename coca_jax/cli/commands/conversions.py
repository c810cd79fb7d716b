"""The subcommands that convert weights and score files of results."""

import argparse
import functools
import os
import sys

from coca_jax.errors import UserError


def convert(options: argparse.Namespace) -> None:
    """Converts weights from or to another project."""
    from coca_jax.interop.convert import export_open_clip, import_open_clip

    if options.to:
        if options.variant:
            raise UserError("--variant is for --from; an exported model has its own")
        if options.cls_mask:
            raise UserError("--cls-mask is for --from; an exported model has its own")
        for note in export_open_clip(options.input, options.output, options.dtype):
            print(f"in OpenCLIP: {note}")
        print(options.output)
        return
    shifted = None if options.cls_mask is None else options.cls_mask == "released"
    report = functools.partial(print, file=sys.stderr)
    count = import_open_clip(
        options.input, options.variant, options.output, shifted, report, options.dtype
    )
    print(f"{options.output}: {count:,} parameters")


def score(options: argparse.Namespace) -> None:
    """Scores a file of captions or answers as the COCO and VQA servers do."""
    from coca_jax.evaluate.challenges import score_results
    from coca_jax.evaluate.results import format_table, write_json

    metrics = score_results(options.annotations, options.results, options.split)
    if options.json:
        write_json(metrics, options.json)
    print(format_table({os.path.basename(options.results): metrics}))
