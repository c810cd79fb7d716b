"""The subcommands that compute results for whole data sets."""

import argparse
from collections.abc import Callable
from typing import Any

from coca_jax.cli.commands.configs import load_model
from coca_jax.cli.options import MOST_THREADS
from coca_jax.errors import Incomplete, Preempted
from coca_jax.io.cores import available_cores
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
    from coca_jax.batch_inference import data
    from coca_jax.batch_inference.output import Output, output_folder
    from coca_jax.batch_inference.tasks import require_contrastive
    from coca_jax.data.sources import warn_of_lost

    folder = output_folder(options.output)
    named = data.data_options(
        options.data, options.data_format, options.split, options.image_keys, options.text_keys
    )
    prepare_environment()
    index, count = _share(options)
    source, parts = data.open_share(named, index, count, options.records_per_file)
    warn_of_lost(options.data, source)
    model = load_model(options.model)
    if command != "caption":
        require_contrastive(model, command)
    task = make_task(model)
    settings = {
        "command": command,
        "model": model.identity,
        "options": dict(task.options),
        "data": {
            "format": named.format,
            "image_keys": named.image_keys,
            "text_keys": named.text_keys,
        },
        "keep": options.keep,
        "records_per_file": options.records_per_file,
    }
    if task.options.get("method") == "sample":
        settings["batch_size"] = options.batch_size  # samples depend on it
    output = Output(folder, options.format, settings, task.columns)
    output.open()
    if count == 1 and (surplus := output.surplus(parts)):
        shown = ", ".join(surplus[:5]) + ", ..." * (len(surplus) > 5)
        print(f"{folder} also has results that belong to no shard of the data: {shown}")
    _compute(options, source, parts, task, output)


def _share(options: argparse.Namespace) -> tuple[int, int]:
    """The first of this process's files or parts, and the number of processes."""
    from coca_jax.distributed import processes

    process, processes_of_run = processes.place_of_its_own()
    shard, shards = options.shard
    return (shard - 1) * processes_of_run + process, shards * processes_of_run


def _compute(options: argparse.Namespace, source: Any, parts: list, task: Any, output: Any) -> None:
    """Writes the results of some parts, and says what was done."""
    from coca_jax.batch_inference import run
    from coca_jax.data.transforms.images import Resizing
    from coca_jax.io.signals import stop_request

    image = task.model.config.image
    with stop_request() as stop:
        try:
            summary = run(
                source,
                parts,
                task,
                output,
                image.target,
                resizing=Resizing.of(image),
                batch_size=options.batch_size,
                threads=options.threads or min(MOST_THREADS, available_cores()),
                keep=options.keep,
                should_stop=lambda: bool(stop),
            )
        except Preempted as preempted:
            raise Preempted(f"{preempted} ({stop.signal})") from None
    results, files = counted(summary.results, "results"), counted(summary.parts, "files")
    print(f"{output.folder}: {results} in {files}")
    if summary.bad:
        raise Incomplete(
            f"{summary.bad:,} of {summary.bad + summary.results:,} records have no result; "
            f"{output.folder}/_done names them"
        )
