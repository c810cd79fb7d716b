"""The run's folder: whose it is, and what was resolved to make it."""

import json

import jax
from etils import epath
from ml_collections import ConfigDict

from coca_jax.config import differences, model_config, to_json, write_config
from coca_jax.config.record import NAME, with_defaults
from coca_jax.data.tokenizers import MODEL_FILES, model_file
from coca_jax.errors import UserError
from coca_jax.evaluate.from_config import missing
from coca_jax.evaluate.results import read_step
from coca_jax.io import files, folders

# What may change between attempts of one run: where and how fast it computes, not what.
FREE = (
    "mesh.",
    "sharding.",
    "checkpoint.",
    "eval",
    "init.",  # read by a new run only
    "head.class_file",  # what it says is in head.classes
    "profile.",
    "processes.",
    "watchdog.",
    "compile_cache",
    "compiler_options",
    "model.attention",
    "loss.contrastive.chunk",
    "loss.captioning.chunk",
    "train.log_every",
    "train.evaluate_every",
    "train.accumulate",
    "data.dir",
    "data.cache_dir",
    "data.threads",
    "data.workers",
    "data.max_bad_share",
    "data.allow_changes",
    "data.tokenizer.path",
    "model.remat",
    "model.image.remat",
    "model.text.remat",
    "model.scan_unroll",
)


def claim(workdir: epath.Path, config: ConfigDict, tokenizer_file: str) -> None:
    """Makes the folder this run's, or makes sure that it is already.

    Writes `config.json` (and the tokenizer's file beside it, so that the model can be loaded from
    this folder alone).

    Raises:
      UserError: the folder belongs to a run with another configuration or tokenizer.
    """
    file = workdir / NAME
    steps = folders.children(workdir / "checkpoints")
    for record in (file, *(step / "metadata.json" for step in steps)):
        stored = _config_of(record)
        if stored and (found := differences(stored, to_json(config), FREE)):
            raise UserError(
                f"{workdir} holds a run with another configuration; set these back, or choose "
                "another --workdir:\n  " + "\n  ".join(found)
            )
    kind = config.data.tokenizer.kind
    if kind in MODEL_FILES:
        known, content = workdir / MODEL_FILES[kind], model_file(kind, tokenizer_file)
        if known.exists() and content != known.read_bytes():
            raise UserError(f"{workdir} holds a run with another tokenizer than {tokenizer_file}")
        if jax.process_index() == 0:
            files.write_whole(known, content)
    if jax.process_index() == 0:
        write_config(workdir, config)


def is_finished(workdir: epath.Path, config: ConfigDict) -> bool:
    """Whether the folder's run is this configuration's, at its last step, and evaluated there.

    One whose length is in epochs never is: only its data say how many steps they are.
    """
    stored = _config_of(workdir / NAME)
    if not stored or config.train.epochs or differences(stored, to_json(config), FREE):
        return False
    steps = config.train.steps
    left = missing(config, model_config(config), read_step(workdir, steps))
    return not left and (workdir / f"checkpoints/{steps}/manifest.json").exists()


def _config_of(record: epath.Path) -> dict:
    """The configuration in a JSON file; empty if it is not there, or damaged."""
    try:
        return with_defaults(json.loads(files.read_bytes(record))["config"])
    except (OSError, ValueError, KeyError):
        return {}
