"""Small models with random parameters, as runs on disk and loaded."""

import functools
import pathlib

import jax
import numpy as np
from models.random_params import random_params

import coca_jax
from coca_jax import models
from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import load_config, model_config, to_json, write_config
from coca_jax.data.tokenizers.sentence_piece import train_sentencepiece

ROOT = pathlib.Path(__file__).parents[2]
ONE_DEVICE = jax.devices()[:1]
TINY = (
    "--config.data.tokenizer.kind=byte",
    "--config.model.text.vocab_size=260",  # one more than there are bytes and special ids
    "--config.model.text.unimodal_layers=1",
    "--config.model.text.multimodal_layers=2",
    "--config.model.image.num_layers=2",
    "--config.model.image.width=32",
    "--config.model.text.width=32",
)


def make_run(folder, *overrides):
    """A run of a tiny model; returns its folder."""
    config = load_config(f"{ROOT}/configs/shapes.py:smoke", [*TINY, *overrides])
    params = random_params(models.make_model(model_config(config)), 0)
    with CheckpointStore(folder / "checkpoints") as store:
        store.save(2, {"params": params}, {"examples_seen": 32, "config": to_json(config)})
    write_config(folder, config)
    if config.data.tokenizer.kind == "sentencepiece":
        words = [f"a {color} {what}" for color in ("red", "blue") for what in ("ring", "star")]
        (folder / "tokenizer.model").write_bytes(train_sentencepiece(words * 20, 400))
    return folder


def load(folder):
    return coca_jax.load(folder, devices=ONE_DEVICE)


@functools.cache
def pixels(size, count, seed=0):
    """Images of a few large squares, which captions can tell apart."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    each = -(-size[0] // 4), -(-size[1] // 4)
    return np.repeat(np.repeat(squares, each[0], 1), each[1], 2)[:, : size[0], : size[1]]


def texts(model, count):
    """Rows of ids with 2 to all real tokens."""
    rng, text = np.random.default_rng(1), model.config.text
    ids = rng.integers(3, model.tokenizer.vocab_size, (count, text.context_length), np.int32)
    ids[:, 0] = model.tokenizer.bos_id
    ends = np.linspace(1, text.context_length - 1, count).astype(int)
    for row, end in zip(ids, ends, strict=True):
        row[end], row[end + 1 :] = model.tokenizer.eos_id, model.tokenizer.pad_id
    return ids


def greedy(call, description, pixels):
    """Captions by an exported model's functions.

    Args:
      call: called with a function's name and inputs; returns outputs by name.
      description: `export.json`.
      pixels: uint8 images.

    Returns:
      Ids, and the logits that each was chosen by.
    """
    tokenizer, captions = description["tokenizer"], description["captions"]
    inputs = call("image_encoder", pixels=pixels)
    inputs.pop("embedding", None)
    for port in description["functions"]["decoder"]["inputs"]:
        if port["name"].startswith("text_"):
            shape = [len(pixels) if size == "batch" else size for size in port["shape"]]
            inputs[port["name"]] = np.zeros(shape, inputs["image_keys"].dtype)
    ids, logits = [np.full(len(pixels), tokenizer["bos_id"], np.int32)], []
    ended = np.zeros(len(pixels), bool)
    for position in range(captions["length"] - 1):
        outputs = call("decoder", ids=ids[-1], position=np.array(position, np.int32), **inputs)
        for name in ("text_keys", "text_values"):
            inputs[name] = outputs[f"next_{name}"]
        logits.append(np.array(outputs["logits"]))
        allowed = logits[-1].copy()
        allowed[:, captions["suppress"]] = -np.inf
        best = np.where(ended, tokenizer["pad_id"], allowed.argmax(-1)).astype(np.int32)
        ids, ended = [*ids, best], ended | (best == tokenizer["eos_id"])
    return np.stack(ids, axis=1), np.stack(logits, axis=1)
