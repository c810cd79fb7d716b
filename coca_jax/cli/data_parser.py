"""The arguments of the subcommands of `coca data`."""

import argparse
from collections.abc import Callable

from coca_jax.cli.commands import data
from coca_jax.cli.options import cosine, path

Add = Callable[..., argparse.ArgumentParser]  # `parser._add`, bound to a group of subcommands


def add_data(add: Add) -> None:
    """Adds `prepare`, `inspect`, `train-tokenizer`, lists of records, and conversions."""
    _add_sources(add)
    _add_lists(add)
    _add_conversions(add)


def _add_sources(add: Add) -> None:
    command = add("prepare", data.data_prepare)
    command.add_argument("name", help="name of the data set, such as shapes")
    command.add_argument(
        "--data-dir", type=path, help="folder of TFDS data sets; default: TFDS's own"
    )
    command.add_argument(
        "--files",
        type=path,
        metavar="DIR",
        help="folder of the original files, in place of a download",
    )
    command = add("inspect", data.data_inspect, "config")
    command.add_argument("--examples", type=int, default=1000, help="number of examples to read")
    command.add_argument(
        "--sheet", type=path, default="data.png", metavar="PNG", help="image to draw"
    )
    command.add_argument("--json", type=path, metavar="FILE", help="write the result as JSON, too")
    command.add_argument(
        "--strict", action="store_true", help="exit with 5 if some of the data cannot be used"
    )
    command = add("train-tokenizer", data.data_train_tokenizer, "config")
    command.add_argument("--vocab-size", type=int, default=64_000, help="number of pieces")
    command.add_argument("--type", choices=("unigram", "bpe"), default="unigram", help="algorithm")
    command.add_argument(
        "--examples", type=int, default=10_000_000, help="read at most this many captions"
    )
    command.add_argument("output", type=path, metavar="OUT.model", help="file to write")


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--source", default="", help="data set in data.sources; default: data.train"
    )


def _add_lists(add: Add) -> None:
    command = add("neighborhoods", data.data_neighborhoods, "config")
    _add_source(command)
    command.add_argument(
        "--embeddings",
        type=path,
        required=True,
        metavar="DIR",
        help="folder that coca embed wrote of the data set",
    )
    command.add_argument("output", type=path, metavar="OUT.npy", help="file to write")
    command = add("deduplicate", data.data_deduplicate, "config")
    _add_source(command)
    command.add_argument(
        "--distance", type=int, default=4, help="bits of 64 in which hashes may differ"
    )
    command.add_argument(
        "--embeddings",
        type=path,
        metavar="DIR",
        help="compare embeddings, not hashes: a folder that coca embed wrote of the data set",
    )
    command.add_argument(
        "--references",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder that coca embed wrote of an evaluation's images; may be given several times",
    )
    command.add_argument(
        "--similarity", type=cosine, default=0.95, help="least cosine of duplicates' embeddings"
    )
    command.add_argument("output", type=path, metavar="OUT.tsv", help="file to write")


def _add_conversions(add: Add) -> None:
    command = add("convert", data.data_convert)
    command.add_argument(
        "inputs", nargs="+", metavar="PARQUET", help="files, URLs or folders; with {000..099} and *"
    )
    command.add_argument("output", type=path, metavar="OUT", help="what to write")
    command.add_argument("--image", default="", help="column of image files")
    command.add_argument(
        "--captions",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column of captions; may be given several times",
    )
    command.add_argument("--split", default="train", help="split to write, and to read of a folder")
    command.add_argument(
        "--workers", type=int, default=0, help="number of processes; 0: one for each core"
    )
    command = add("convert-annotations", data.data_convert_annotations)
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="JSON",
        help="annotation file; for VQAv2 those of questions and of answers",
    )
    command.add_argument("output", type=path, metavar="OUT.jsonl", help="table to write")
    command.add_argument(
        "--images", required=True, type=path, metavar="DIR", help="folder of images"
    )
    command.add_argument(
        "--split", default="", help="split in Karpathy's or MSR-VTT's file; default: all"
    )
    command = add("answer-vocab", data.data_answer_vocab)
    command.add_argument("tables", nargs="+", metavar="TABLE.jsonl", help="table of questions")
    command.add_argument("output", type=path, metavar="OUT.txt", help="file to write")
    command.add_argument(
        "--min-count", type=int, default=9, help="keep answers of at least this many questions"
    )
