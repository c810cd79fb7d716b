"""The arguments of the subcommands that use a trained model."""

import argparse
from collections.abc import Callable, Sequence

from coca_jax.cli.commands import (
    batches,
    exporting,
    models,
    serving,
)
from coca_jax.cli.options import (
    CAPTION_OPTIONS,
    DATA_DEFAULTS,
    FORMATS,
    MOST_THREADS,
    SERVING_OPTIONS,
    count,
    path,
    port,
    task,
    threads,
)

Add = Callable[..., argparse.ArgumentParser]  # `parser._add`, bound to a group of subcommands


def add_models(add: Add) -> None:
    """Adds `caption`, `embed`, `score-pairs` and `search`."""
    command = add("caption", models.caption)
    _add_model(command)
    for name, (kind, meaning) in CAPTION_OPTIONS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, help=meaning)
    command.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="an image, a video or a folder of its frames; for a folder of images use --data",
    )
    _add_batches(command, needed=False)
    command = add("embed", batches.embed)
    _add_model(command)
    _add_batches(command, formats=(*FORMATS, "npy"))
    command.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the embeddings"
    )
    command = add("score-pairs", batches.score_pairs)
    _add_model(command)
    _add_batches(command)
    command = add("search", models.search)
    _add_model(command)
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--images", type=path, metavar="DIR", help="search a folder of images")
    where.add_argument(
        "--embeddings",
        type=path,
        action="append",
        metavar="DIR",
        help="search what coca embed wrote to this folder; may be given several times",
    )
    command.add_argument("--top", type=count, default=5, help="number of images to print")
    command.add_argument(
        "--backend",
        choices=("exact", "faiss"),
        default="exact",
        help="how to search; faiss is for many images",
    )
    command.add_argument(
        "--index",
        type=path,
        metavar="DIR",
        help="folder of the index of --images; default: in the model's folder",
    )
    command.add_argument("--image", type=path, metavar="FILE", help="image to search for")
    command.add_argument("text", nargs="?", help="text to search for")


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        required=True,
        type=path,
        help="a workdir, its checkpoints/STEP or checkpoints/best, a converted model, or "
        "hf-hub:ORG/NAME",
    )


def _add_batches(
    command: argparse.ArgumentParser, needed: bool = True, formats: Sequence[str] = FORMATS
) -> None:
    """Adds the options of a command that computes results for a data set."""
    group = command.add_argument_group("a data set")
    group.add_argument(
        "--data", required=needed, metavar="PATH", help="files, a pattern, a folder, or tfds:NAME"
    )
    group.add_argument(
        "--output", required=needed, type=path, metavar="DIR", help="folder of the results"
    )
    group.add_argument("--format", choices=formats, help="of the results")
    group.add_argument(
        "--keep",
        action="store_true",
        help="also write all that is stored with a record, as JSON in a column",
    )
    group.add_argument(
        "--data-format",
        metavar="NAME",
        help="webdataset, parquet, ...; default: by the names of the files",
    )
    group.add_argument("--split", help="split of a TFDS data set or of a folder")
    for name, what in (("image", "its image"), ("text", "its caption")):
        group.add_argument(
            f"--{name}-keys",
            nargs="+",
            metavar="KEY",
            help=f"members of a tar's sample, or columns of Parquet, that are {what}",
        )
    group.add_argument(
        "--shard",
        type=task,
        metavar="K/N",
        help="do the K-th of N parts; array: by the task's number in a SLURM job array",
    )
    group.add_argument("--records-per-file", type=count, help="larger shards become several files")
    group.add_argument("--batch-size", type=count, help="images of a batch")
    group.add_argument(
        "--threads",
        type=threads,
        help=f"that decode; 0: one for each core, at most {MOST_THREADS}",
    )
    command.set_defaults(**DATA_DEFAULTS)


def add_serving(add: Add) -> None:
    """Adds `serve`."""
    command = add("serve", serving.serve)
    _add_model(command)
    command.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0: all")
    command.add_argument("--port", type=port, default=8000, help="port; 0: any free one")
    for name, (kind, default, meaning) in SERVING_OPTIONS.items():
        command.add_argument(f"--{name}", type=kind, default=default, help=meaning)
    command.add_argument(
        "--allow-urls", action="store_true", help="fetch images at URLs, of public addresses only"
    )
    command.add_argument(
        "--images", type=path, metavar="DIR", help="folder of images that can be searched"
    )
    command.add_argument(
        "--index",
        type=path,
        metavar="DIR",
        help="folder of their index; default: in the model's folder",
    )


def add_export(add: Add) -> None:
    """Adds `export`."""
    command = add("export", exporting.export)
    command.add_argument(
        "model",
        type=path,
        metavar="MODEL",
        help="a workdir, a converted model, or hf-hub:ORG/NAME",
    )
    command.add_argument("output", type=path, metavar="OUT", help="folder to write")
    command.add_argument(
        "--format", choices=("stablehlo", "onnx"), required=True, help="format of the functions"
    )
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of activations"
    )
    command.add_argument(
        "--platforms",
        metavar="LIST",
        help="platforms that the StableHLO runs on, with commas between: cpu, cuda, rocm, tpu; "
        "default: cpu,cuda,tpu",
    )
