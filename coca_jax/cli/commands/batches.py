"""The subcommands that compute results for whole data sets."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from coca_jax.cli.commands.configs import load_model
from coca_jax.errors import Incomplete, Preempted
from coca_jax.io.messages import counted


def caption_data(options: argparse.Namespace, method: str, settings: dict[str, Any]) -> None:
    """Captions a data set."""
    from coca_jax.batch_inference import CaptionTask

    _run(options, "caption", lambda model: CaptionTask(model, method, settings))


def embed(options: argparse.Namespace) -> None:
    """Embeds the images of a data set."""
    from coca_jax.batch_inference import EmbedTask

    _run(options, "embed", lambda model: EmbedTask(model, options.dtype))


def score_pairs(options: argparse.Namespace) -> None:
    """Computes the similarity of each image of a data set and its captions."""
    from coca_jax.batch_inference import ScoreTask

    _run(options, "score-pairs", ScoreTask)


def _run(options: argparse.Namespace, command: str, make_task: Callable) -> None:
    """Opens the data and the output folder, loads the model, and computes this process's share."""
    from coca_jax.accelerators import prepare_environment
    from coca_jax.batch_inference import Output, data_options, run, split
    from coca_jax.batch_inference.output import output_folder, require_format
    from coca_jax.batch_inference.tasks import require_contrastive
    from coca_jax.config import Config
    from coca_jax.data.sources import open_source, warn_of_lost
    from coca_jax.data.transforms.images import Resizing
    from coca_jax.distributed import processes
    from coca_jax.io.signals import stop_request

    require_format(options.format, command)
    folder = output_folder(options.output)
    named = data_options(
        options.data, options.data_format, options.split, options.image_keys, options.text_keys
    )
    prepare_environment()
    limits = Config().distributed
    processes.start(limits.start_seconds, limits.heartbeat_seconds)
    import jax

    source = open_source(named)
    warn_of_lost(options.data, source)
    parts = split(source, options.records_per_file)
    index, count = options.shard
    index = (index - 1) * jax.process_count() + jax.process_index()
    mine = parts[index :: count * jax.process_count()]
    model = load_model(options.model)
    if command != "caption":
        require_contrastive(model, command)
    task = make_task(model)
    settings = {
        "command": command,
        "model": model.identity,
        "options": dict(task.options),
        "keep": options.keep,
        "records_per_file": options.records_per_file,
    }
    output = Output(folder, options.format, settings)
    output.open()
    with stop_request() as stop:
        try:
            summary = run(
                source,
                mine,
                task,
                output,
                model.config.image.pixels,
                resizing=Resizing.of(model.config.image),
                batch_size=options.batch_size,
                threads=options.threads or min(16, os.cpu_count() or 1),
                keep=options.keep,
                should_stop=lambda: bool(stop),
            )
        except Preempted as preempted:
            raise Preempted(f"{preempted} ({stop.signal})") from None
    print(f"{folder}: {counted(summary.results, 'results')} in {counted(summary.parts, 'files')}")
    if surplus := output.surplus(parts):
        names = ", ".join(surplus[:5]) + ", ..." * (len(surplus) > 5)
        print(f"{folder} also has results that belong to no shard of the data: {names}")
    if summary.bad:
        raise Incomplete(
            f"{summary.bad:,} of {summary.bad + summary.results:,} records have no result; "
            f"{folder}/_done names them"
        )
