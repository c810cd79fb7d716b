"""The arguments of every subcommand."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from coca_jax.cli import data_parser, model_parser
from coca_jax.cli.commands import (
    checkpoints,
    conversions,
    doctor,
    packaged,
    plans,
    runs,
)
from coca_jax.cli.options import (
    HelpFormatter,
    Once,
    Version,
    count,
    folder,
    path,
    shard,
    share,
    step,
    weight_list,
)

Add = Callable[..., argparse.ArgumentParser]  # `_add`, bound to a group of subcommands

# These are not the functions' docstrings, because `python -OO` removes docstrings.
HELP = {
    "train": "Train a model, or resume the run in --workdir.",
    "evaluate": "Evaluate a checkpoint by the configuration's evaluations; print a table.",
    "compare": "Train the rows of a sweep's tables with each seed; draw the tables.",
    "caption": "Caption images, and print one JSON line per image; or caption a data set.",
    "embed": "Embed the images of a data set.",
    "score_pairs": "Compute the similarity of each image of a data set and its captions.",
    "search": "Find the images that match a text or an image best.",
    "serve": "Serve a model over HTTP, with a page to try it.",
    "doctor": "Examine this machine: devices, versions, disks, decoders; say how to fix it.",
    "configs": "List the configurations that come with coca_jax, or print the file of one.",
    "params": "Print the parameters and FLOPs of each part of the model.",
    "plan": "Compile the train step for devices that need not be here; print memory and time.",
    "data_prepare": "Build a data set and its tokenizer.",
    "data_inspect": "Print counts, caption lengths, bad examples and speed; draw examples.",
    "data_train_tokenizer": "Train a SentencePiece model on the captions of the data.",
    "data_convert": "Convert Parquet files to a TFDS data set, which allows random access.",
    "data_convert_annotations": "Convert published annotation files to a table to train on.",
    "data_answer_vocab": "Write the common answers in tables of questions, as classes for a head.",
    "data_neighborhoods": "Order training records so that similar images are drawn together.",
    "data_deduplicate": "List the training images that look like an image of an evaluation.",
    "convert": "Convert weights from or to another project, or to another type.",
    "average": "Average the parameters of several models or checkpoints.",
    "checkpoints": "List the checkpoints of a run with their metrics; say which are damaged.",
    "push": "Upload a model's folder to the Hugging Face hub.",
    "export": "Write a model's functions as StableHLO or ONNX, for use without coca_jax.",
    "score": "Score a file of captions or answers as the COCO and VQA servers do.",
    "report": "Write report.html of a run or a sweep.",
}
WORKDIRS = {"compare": "sweep", "report": "run or of the sweep"}  # of other commands: run


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands, each with the function that runs it."""
    parser = argparse.ArgumentParser(
        prog="coca",
        description="CoCa (Contrastive Captioners) in JAX.",
        epilog="Keys of a configuration are set as --config.optimizer.learning_rate=3e-4; the last "
        "value of a key counts.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=Version, nargs=0, help="print the versions that matter, and exit"
    )
    groups = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add = functools.partial(_add, groups)
    _add_runs(add)
    model_parser.add_models(add)
    model_parser.add_serving(add)
    _add_plans(add)
    below = groups.add_parser("data", help="Build and inspect data sets.")
    below = below.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    data_parser.add_data(functools.partial(_add, below))
    _add_conversions(add)
    model_parser.add_export(add)
    add("report", runs.report, "workdir")
    _add_doctor(add)
    return parser


def _add(groups: Any, name: str, run: Callable, *needs: str) -> argparse.ArgumentParser:
    """Adds a subcommand.

    Args:
      groups: the subcommands that it becomes one of.
      name: as the user writes it.
      run: its function.
      *needs: `config`, `workdir` or both: shared options that it has.
    """
    command = groups.add_parser(
        name, help=HELP[run.__name__], allow_abbrev=False, formatter_class=HelpFormatter
    )
    command.set_defaults(run=run)
    if "config" in needs:
        command.add_argument(
            "--config",
            required=True,
            action=Once,
            metavar="NAME[:ARGUMENT]",
            help="Python file or module with get_config(argument), or one that `coca configs` "
            "lists; set keys as --config.KEY=VALUE",
        )
    if "workdir" in needs:
        command.add_argument(
            "--workdir",
            required=True,
            type=folder,
            help=f"folder of the {WORKDIRS.get(name, 'run')}",
        )
    return command


def _add_runs(add: Add) -> None:
    add("train", runs.train, "config", "workdir")
    command = add("evaluate", runs.evaluate, "config", "workdir")
    command.add_argument(
        "--step",
        type=step,
        help="step of the checkpoint, or best, the one that checkpoint.keep_best keeps; default: "
        "the newest",
    )
    command = add("checkpoints", checkpoints.checkpoints)
    command.add_argument("folder", type=folder, metavar="WORKDIR", help="folder of the run")
    command.add_argument("--json", type=path, metavar="FILE", help="write the result as JSON, too")
    command.add_argument(
        "--sizes-only",
        action="store_true",
        help="compare the sizes of files, and read none to compare checksums",
    )
    command = add("compare", runs.compare, "config", "workdir")
    command.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="K/N",
        help="train the K-th of N parts of the runs; 0/N: none, only make the tables",
    )


def _add_doctor(add: Add) -> None:
    command = add("doctor", doctor.doctor)
    command.add_argument(
        "--workdir",
        type=path,
        dest="folder",  # nothing is written to it
        default=".",
        metavar="WORKDIR",
        help="folder of runs that are to be; default: the current one",
    )
    command.add_argument("--json", type=path, metavar="FILE", help="write the result as JSON, too")


def _add_plans(add: Add) -> None:
    add("configs", packaged.configs).add_argument(
        "name", nargs="?", metavar="NAME", help="print this one's file, as a start for your own"
    )
    add("params", plans.params, "config").add_argument(
        "--json", type=path, metavar="FILE", help="write the result as JSON, too"
    )
    command = add("plan", plans.plan, "config")
    command.add_argument(
        "--topology",
        required=True,
        metavar="GENERATION:SHAPE",
        help="such as v4:8x16x16 or h100:4x8",
    )
    command.add_argument("--slices", type=int, default=1, help="number of TPU slices of that shape")
    command.add_argument(
        "--search", action="store_true", help="try meshes, remat and micro-batches; rank them"
    )
    command.add_argument("--json", type=path, metavar="FILE", help="write the result as JSON, too")
    command.add_argument("--plot", type=path, metavar="PNG", help="draw the memory of a device")
    command.add_argument(
        "--kernels",
        nargs="?",
        const=20,
        type=count,
        metavar="N",
        help="print the N largest parts of the step by time (20)",
    )
    command.add_argument(
        "--hlo", type=path, metavar="FILE", help="write the compiled program as text"
    )


def _add_average(add: Add) -> None:
    command = add("average", conversions.average)
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights",
        type=weight_list,
        metavar="W,W,...",
        help="weight of each model, with commas between; default: equal weights",
    )
    weights.add_argument(
        "--alpha",
        type=share,
        metavar="A",
        help="(1 - A) of the first and A of the second of two models (WiSE-FT)",
    )
    weights.add_argument(
        "--ema",
        type=share,
        metavar="DECAY",
        help="moving average of the steps of one run, in their order",
    )
    _add_dtype(command)
    command.add_argument(
        "models",
        nargs="+",
        type=path,
        metavar="MODEL",
        help="a workdir, its checkpoints/STEP or checkpoints/best, a converted model, or "
        "hf-hub:ORG/NAME; a single workdir: all of its steps",
    )
    command.add_argument("output", type=path, metavar="OUT", help="folder to write")


def _add_dtype(command: argparse.ArgumentParser, *more: str, help: str = "") -> None:
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", *more),
        default="float32",
        help=f"type that the weights are stored as{help}",
    )


def _add_conversions(add: Add) -> None:
    command = add("convert", conversions.convert)
    direction = command.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="origin", choices=("open_clip",), help="read its weights")
    direction.add_argument(
        "--to",
        choices=("open_clip", "coca"),
        help="write its weights; coca: a folder of this project with the weights alone, those that "
        "loading IN gives: the average, if there is one, and with the factors of LoRA added in",
    )
    command.add_argument(
        "--variant",
        help="model of the weights: open_clip_vit_b_32, ..., or a JSON file; default: IN's own",
    )
    command.add_argument(
        "--cls-mask",
        choices=("released", "correct"),
        help="mask of [CLS] in training: that of OpenCLIP's released weights, or the correct one; "
        "default: what IN says, else released",
    )
    _add_dtype(
        command,
        "int8",
        help="; int8, for --to coca: the matrices alone, each column with a float scale",
    )
    command.add_argument(
        "input", type=path, metavar="IN", help="weights or model to read, or hf-hub:ORG/NAME"
    )
    command.add_argument(
        "--license",
        metavar="ID",
        help="license in the model card of --to, as the hub names it: apache-2.0, ...",
    )
    command.add_argument(
        "output", type=path, metavar="OUT", help="what to write; of --to a .safetensors or a folder"
    )
    _add_average(add)
    command = add("push", conversions.push)
    command.add_argument(
        "--private",
        action="store_true",
        help="make a new repository private; a public one is refused",
    )
    command.add_argument(
        "folder", type=path, metavar="DIR", help="folder that convert --to open_clip wrote"
    )
    command.add_argument("name", metavar="ORG/NAME", help="repository; created if there is none")
    command = add("score", conversions.score)
    command.add_argument(
        "--annotations", required=True, type=path, help="file of COCO, Karpathy, MSR-VTT or VQAv2"
    )
    command.add_argument(
        "--results", required=True, type=path, metavar="FILE", help="file to score"
    )
    command.add_argument(
        "--split", default="", help="split in Karpathy's or MSR-VTT's file; default: all"
    )
    command.add_argument("--json", type=path, metavar="FILE", help="write the result as JSON, too")
