"""The arguments of every subcommand."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from coca_jax.cli import commands
from coca_jax.cli.options import CAPTION_OPTIONS, Once, count, part, path

Add = Callable[..., argparse.ArgumentParser]  # `_add` to a group of subcommands

# Not the functions' docstrings, which `python -OO` leaves out.
HELP = {
    "train": "Train a model, or resume the run in --workdir.",
    "evaluate": "Restore a checkpoint, run the configuration's evaluations and print a table.",
    "compare": "Train the rows of a comparison's tables by several seeds; draw the tables.",
    "caption": "Print one JSON line per image.",
    "search": "Print the images of a folder that suit a text best; keep an index of them.",
    "params": "Print parameters and FLOPs per tower.",
    "plan": "Compile the train step for a pod that need not be there; show what it takes.",
    "data_prepare": "Build a data set and its tokenizer.",
    "data_inspect": "Show counts, caption lengths, bad examples, speed and a sheet of examples.",
    "data_train_tokenizer": "Train a SentencePiece model on the captions of the data.",
    "data_convert": "Convert Parquet files to a data set that is read at random, once.",
    "data_convert_annotations": "Convert published annotation files to a table to train on.",
    "data_answer_vocab": "List the answers that are common in tables of questions.",
    "data_deduplicate": "List the training images that look like one of the evaluations'.",
    "convert": "Bring weights in from another project, or out to it.",
    "score": "Score a file of captions or answers as the COCO and VQA servers do.",
    "report": "Write the run's page.",
}


def make_parser() -> argparse.ArgumentParser:
    """Subcommands, each with the function that runs it."""
    parser = argparse.ArgumentParser(
        prog="coca",
        description="CoCa (Contrastive Captioners) in JAX.",
        epilog="Keys of a configuration are set as --config.optimizer.learning_rate=3e-4; the last "
        "value of a key counts.",
        allow_abbrev=False,
    )
    groups = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add = functools.partial(_add, groups)
    _add_runs(add)
    _add_models(add)
    _add_plans(add)
    data = groups.add_parser("data", help="Build and inspect data sets.")
    data = data.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    _add_data(functools.partial(_add, data))
    _add_conversions(add)
    add("report", commands.report, "workdir")
    return parser


def _add(groups: Any, name: str, run: Callable, *needs: str) -> argparse.ArgumentParser:
    """A subcommand, with the options that it needs of those that several have."""
    command = groups.add_parser(name, help=HELP[run.__name__], allow_abbrev=False)
    command.set_defaults(run=run)
    if "config" in needs:
        command.add_argument("--config", required=True, action=Once, metavar="FILE[:ARGUMENT]")
    if "workdir" in needs:
        command.add_argument("--workdir", required=True, type=path)
    return command


def _add_runs(add: Add) -> None:
    add("train", commands.train, "config", "workdir")
    add("evaluate", commands.evaluate, "config", "workdir").add_argument("--step", type=int)
    command = add("compare", commands.compare, "config", "workdir")
    command.add_argument(
        "--shard",
        type=part,
        default=(1, 1),
        metavar="K/N",
        help="train the K-th of N shares of the runs; 0/N: none, only make the tables",
    )


def _add_models(add: Add) -> None:
    command = add("caption", commands.caption)
    command.add_argument("--model", required=True, type=path, help="a workdir")
    for name, (kind, meaning) in CAPTION_OPTIONS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, help=meaning)
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command = add("search", commands.search)
    command.add_argument("--model", required=True, type=path, help="a workdir")
    command.add_argument("--images", required=True, type=path, metavar="DIR")
    command.add_argument("--top", type=count, default=5, help="how many")
    command.add_argument(
        "--backend", choices=("exact", "faiss"), default="exact", help="faiss: for many images"
    )
    command.add_argument("--index", type=path, metavar="DIR", help="default: in the model's")
    command.add_argument("text")


def _add_plans(add: Add) -> None:
    add("params", commands.params, "config").add_argument("--json", type=path, metavar="FILE")
    command = add("plan", commands.plan, "config")
    command.add_argument("--topology", required=True, metavar="GENERATION:SHAPE")
    command.add_argument("--slices", type=int, default=1, help="how many of that shape")
    command.add_argument(
        "--search", action="store_true", help="try meshes, remat and micro-batches; rank them"
    )
    command.add_argument("--json", type=path, metavar="FILE")
    command.add_argument("--plot", type=path, metavar="PNG", help="of the memory")


def _add_data(add: Add) -> None:
    command = add("prepare", commands.data_prepare)
    command.add_argument("name")
    command.add_argument(
        "--data-dir", type=path, help="where TFDS data sets lie; TFDS's default if absent"
    )
    command.add_argument(
        "--files", type=path, metavar="DIR", help="what it is made from, instead of fetching"
    )
    command = add("inspect", commands.data_inspect, "config")
    command.add_argument("--examples", type=int, default=1000, help="how many to read")
    command.add_argument("--sheet", type=path, default="data.png", metavar="PNG")
    command.add_argument("--json", type=path, metavar="FILE")
    command.add_argument("--strict", action="store_true", help="exit with 5 if anything is lost")
    command = add("train-tokenizer", commands.data_train_tokenizer, "config")
    command.add_argument("--vocab-size", type=int, default=64_000, help="pieces")
    command.add_argument("--type", choices=("unigram", "bpe"), default="unigram")
    command.add_argument("--examples", type=int, default=10_000_000, help="captions at most")
    command.add_argument("output", type=path, metavar="OUT.model")
    command = add("convert", commands.data_convert)
    command.add_argument("inputs", nargs="+", metavar="PARQUET", help="files, URLs, {000..099}, *")
    command.add_argument("output", type=path, metavar="OUT")
    command.add_argument("--image", default="", help="the column of image files")
    command.add_argument(
        "--captions", action="append", default=[], metavar="COLUMN", help="may be repeated"
    )
    command.add_argument("--split", default="train")
    command.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    command = add("convert-annotations", commands.data_convert_annotations)
    command.add_argument(
        "inputs", nargs="+", metavar="JSON", help="a file; VQAv2: of questions, of answers"
    )
    command.add_argument("output", type=path, metavar="OUT.jsonl")
    command.add_argument("--images", required=True, type=path, metavar="DIR")
    command.add_argument("--split", default="", help="of Karpathy's or MSR-VTT's file; all")
    command = add("answer-vocab", commands.data_answer_vocab)
    command.add_argument("tables", nargs="+", metavar="TABLE.jsonl", help="of questions")
    command.add_argument("output", type=path, metavar="OUT.txt")
    command.add_argument("--min-count", type=int, default=9, help="questions that have the answer")
    command = add("deduplicate", commands.data_deduplicate, "config")
    command.add_argument("--source", default="", help="name in data.sources; none: data.train")
    command.add_argument("--distance", type=int, default=4, help="bits of 64 that may differ")
    command.add_argument("output", type=path, metavar="OUT.tsv")


def _add_conversions(add: Add) -> None:
    command = add("convert", commands.convert)
    direction = command.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="origin", choices=("open_clip",))
    direction.add_argument("--to", choices=("open_clip",))
    command.add_argument(
        "--variant", help="what is read: open_clip_vit_b_32, ..., or a JSON file; none: IN's own"
    )
    command.add_argument(
        "--cls-mask",
        choices=("released", "correct"),
        default="released",
        help="how [CLS] attended in training: as in OpenCLIP's released weights, or as intended",
    )
    command.add_argument("input", type=path, metavar="IN")
    command.add_argument("output", type=path, metavar="OUT")
    command = add("score", commands.score)
    command.add_argument(
        "--annotations", required=True, type=path, help="COCO, Karpathy, MSR-VTT, VQAv2"
    )
    command.add_argument("--results", required=True, type=path, metavar="FILE")
    command.add_argument("--split", default="", help="of Karpathy's or MSR-VTT's file; all")
    command.add_argument("--json", type=path, metavar="FILE")
