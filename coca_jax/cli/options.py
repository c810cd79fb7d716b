"""The options of `coca caption`, types of arguments, and a check of `coca plan`'s options."""

import argparse
import math
import os
import re
from typing import Any

from coca_jax.errors import UserError
from coca_jax.io.paths import as_path, normalize

BEAM_OPTIONS = {
    "beams": (int, "search with this number of beams; of beam search, default: 6"),
    "n_best": (int, "print this number of captions of beam search (others); default: 1"),
    "length_penalty": (
        float,
        "favor long captions if above 0 (default: 1.0, mean log-probability)",
    ),
}
SAMPLING_OPTIONS = {
    "samples": (int, "print this number of sampled captions (others); of sampling, default: 1"),
    "temperature": (float, "divide logits by this before sampling; of sampling, default: 1.0"),
    "top_k": (
        int,
        "sample among this number of the likeliest tokens; of sampling, default: 0, all",
    ),
    "top_p": (
        float,
        "sample among the fewest tokens with this total probability; of sampling, default: 1.0",
    ),
    "seed": (int, "seed the sampling"),
}
CAPTION_OPTIONS = {
    "prompt": (str, "begin captions with this text"),
    "length": (int, "generate at most this many tokens, begin, prompt and end included"),
    "min_length": (
        int,
        "generate at least this many tokens before the end, begin and prompt included",
    ),
    "repetition_penalty": (float, "make repeated tokens less likely if above 1"),
    **BEAM_OPTIONS,
    **SAMPLING_OPTIONS,
}

FORMATS = ("parquet", "jsonl")  # of results for a data set; embeddings have one more
MOST_THREADS = 16  # that decode, unless more are asked for
DATA_DEFAULTS = {  # of the options of a command that computes results for a data set
    **{"output": None, "format": "parquet", "keep": False, "data_format": "", "split": ""},
    **{"image_keys": (), "text_keys": (), "shard": (1, 1), "records_per_file": 10_000},
    **{"batch_size": 64, "threads": 0},
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default of an option to its help, where it is a number or a word."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default, text = action.default, action.help or ""
        is_said = isinstance(default, bool) or default in (None, "", argparse.SUPPRESS)
        if is_said or not isinstance(default, (int, float, str)) or "default:" in text:
            return text
        return super()._get_help_string(action) or ""


class Once(argparse.Action):
    """An option that cannot be given again."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Stores the value; a second one is an error."""
        if getattr(namespace, self.dest) is not None:
            before = getattr(namespace, self.dest)
            parser.error(f"{option_string} is given twice: {before!r} and {values!r}")
        setattr(namespace, self.dest, values)


class Version(argparse.Action):
    """Prints the versions that results depend on, one a line."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Prints them and ends the program."""
        from coca_jax.versions import versions

        for name, number in versions().items():
            print(name, number)
        parser.exit()


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, 1 or more")
    return int(text)


def step(text: str) -> int | str:
    """A step of a run, or "best".

    Raises:
      ArgumentTypeError: the text is neither.
    """
    if text != "best" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} should be a step, or best")
    return text if text == "best" else int(text)


def port(text: str) -> int:
    """A port of TCP; 0 is any that is free.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} should be a port, 0 to {2**16 - 1}")
    return int(text)


def milliseconds(text: str) -> float:
    """A time from 0 to a minute.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 60_000:
        raise argparse.ArgumentTypeError(f"{text!r} should be milliseconds, 0 to 60000")
    return value


def pixel_count(text: str) -> int:
    """A number of pixels that can be decoded.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    if count(text) > 2**27:
        raise argparse.ArgumentTypeError(f"{text!r}: images have at most {2**27} pixels")
    return int(text)


SERVING_OPTIONS = {
    "max-latency-ms": (milliseconds, 5.0, "wait at most this long to fill a batch"),
    "max-batch": (
        count,
        32,
        "run at most this many images together, and take in one request (1,024 at most)",
    ),
    "queue": (count, 256, "answer 503 beyond this many requests in progress"),
    "max-bytes": (count, 2**25, "answer 413 to larger requests"),
    "max-pixels": (pixel_count, 40_000_000, "answer 413 to larger images"),
}


def cosine(text: str) -> float:
    """A number from -1 to 1.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    if not -1 <= (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number from -1 to 1")
    return value


def share(text: str) -> float:
    """A number from 0 to 1.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    if not 0 <= (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number from 0 to 1")
    return value


def weight_list(text: str) -> list[float]:
    """Weights with commas between.

    Raises:
      ArgumentTypeError: one of them is not a number of at least 0, or their sum is 0 or infinite.
    """
    weights = [_number(part) for part in text.split(",")]
    if not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} should be numbers of at least 0, not all 0 and with a finite sum, with "
            "commas between"
        )
    return weights


def _number(text: str) -> float:
    """The number that a text is; NaN if it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def threads(text: str) -> int:
    """A number of threads, 0 for as many as there are cores.

    Raises:
      ArgumentTypeError: the text is not one.
    """
    return 0 if text == "0" else count(text)


def path(text: str) -> str:
    """A path or URL, with `~` and `file://` resolved.

    Raises:
      ArgumentTypeError: it is empty.
    """
    try:
        return normalize(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def folder(text: str) -> str:
    """A path as of `path`, which is not that of a file.

    Raises:
      ArgumentTypeError: it is empty, or a local file.
    """
    if os.path.isfile(name := path(text)):
        raise argparse.ArgumentTypeError(f"{text} is a file, not a folder")
    return name


def shard(text: str) -> tuple[int, int]:
    """A shard: `2/8` as (2, 8).

    Raises:
      ArgumentTypeError: the text is not one.
    """
    if not re.fullmatch(r"\d+/\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} should be two numbers, such as 2/8")
    index, shards = map(int, text.split("/"))
    if index > shards or not shards:
        raise argparse.ArgumentTypeError(f"{text!r}: the first number is at most the second")
    return index, shards


def task(text: str) -> tuple[int, int]:
    """A shard as of `shard`, but not 0/N; `array`: the place of this task in a SLURM job array.

    Raises:
      ArgumentTypeError: the text is not one, or this is not a task of an array.
    """
    if text != "array":
        index, shards = shard(text)
        if not index:
            raise argparse.ArgumentTypeError(f"{text!r}: the first number is 1 or more")
        return index, shards
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")]
    if missing := [name for name in names if not os.environ.get(name, "").isdecimal()]:
        raise argparse.ArgumentTypeError(f"'array': {missing[0]} is not set: no SLURM job array")
    number, first, last, step, count = (int(os.environ[name]) for name in names)
    if (last - first) // step + 1 != count:
        raise argparse.ArgumentTypeError(
            "'array': the tasks of this job array are not evenly spaced; to run some tasks again, "
            "write the part, such as --shard $SLURM_ARRAY_TASK_ID/64"
        )
    return (number - first) // step + 1, count


def require_compiler(options: argparse.Namespace, topology: Any) -> None:
    """Refuses what only a compiled program has, before minutes are spent on it.

    Raises:
      UserError: of what is asked, something cannot be had.
    """
    if options.hlo and options.search:
        raise UserError("--hlo and --search: choose one, since a search compiles several programs")
    if options.hlo and not as_path(options.hlo).parent.is_dir():
        raise UserError(f"--hlo {options.hlo}: there is no folder {as_path(options.hlo).parent}")
    asked = [f"--{name}" for name in ("kernels", "hlo") if getattr(options, name)]
    if asked and not topology.compiles:
        raise UserError(f"{' and '.join(asked)}: {topology.missing}")
