"""What each key may hold, one line a key; what keys must be together is in `validation`."""

import dataclasses

import jax

from coca_jax.data.captions import CHOICES as CAPTIONS
from coca_jax.data.captions import OPERATORS
from coca_jax.data.sources import FORMATS
from coca_jax.distributed.mesh import AXES
from coca_jax.distributed.sharding import RULES
from coca_jax.fields import (
    UINT32,
    Kind,
    choice,
    either,
    flag,
    integer,
    nothing,
    number,
    path,
    pattern,
    plain,
    row,
    several,
    template,
    text,
)

SEED = integer(0, UINT32)  # of a larger one JAX would take the lowest 32 bits
SHARE = number(0, 1, below=True)
WIDTH, LAYERS, HEADS = integer(1, 2**20), integer(1, 10_000), integer(1, 2**16)
PIXELS = integer(1, 2**16)
PATH = path()
NAME = text(empty=False)  # of an evaluation or a data set
TEXTS = several(text(empty=False))
FIELDS = row(text(empty=False), text(empty=False), wanted="the names of two fields")
POLICIES = [name for name in dir(jax.checkpoint_policies) if name.endswith("saveable")]
REMAT = choice("none", "full", "offload", *POLICIES)
SIZE = dataclasses.replace(
    either(integer(1), integer(-1, -1)), description="a number of devices, or -1 for what is left"
)
DEVICES = either(choice(*AXES), several(choice(*AXES), distinct=True), nothing())
SHARDING = several(
    row(choice(*(name for name, _ in RULES)), DEVICES),
    wanted="rows (logical axis, mesh axes or None), of the logical axes "
    f"{', '.join(name for name, _ in RULES)} and the mesh axes {', '.join(AXES)}",
)
FACTORS = several(
    row(pattern(), number()),
    least=1,
    wanted="rows (regular expression, factor of 0 or more), at least one",
)
_OPERANDS = {name: several(plain()) if name in ("in", "not in") else plain() for name in OPERATORS}
FILTERS = several(
    either(*(row(text(empty=False), choice(name), kind) for name, kind in _OPERANDS.items())),
    wanted=f"rows (field, one of {', '.join(OPERATORS)}, value); a list for in and not in",
)
JITTER = row(
    *(number(0, 1000), number(0, 1000), number(0, 1000), number(0, 0.5)),
    wanted="four numbers: brightness, contrast and saturation from 0 to 1000, hue from 0 to 0.5",
)

EXTENSIONS = several(text(empty=False), distinct=True, wanted="extensions, such as ('input.jpg',)")

KEYS: dict[str, Kind] = {
    "seed": SEED,
    "model.image.size": PIXELS,
    "model.image.patch": PIXELS,
    "model.image.grid_width": integer(0, 2**16),
    "model.image.width": WIDTH,
    "model.image.num_layers": LAYERS,
    "model.image.num_heads": HEADS,
    "model.image.mlp_dim": WIDTH,
    "model.image.class_token": flag(),
    "model.image.patch_bias": flag(),
    "model.image.pre_norm": flag(),
    "model.image.patch_dropout": SHARE,
    "model.image.remat": choice("", "none", "full", "offload", *POLICIES),
    "model.image.mean": row(*[number(-1000, 1000)] * 3, wanted="three numbers, one a channel"),
    "model.image.std": row(
        *[number(1e-6, 1000)] * 3, wanted="three numbers from 1e-06 to 1000, one a channel"
    ),
    "model.text.vocab_size": integer(1),
    "model.text.context_length": integer(2, 2**16),
    "model.text.pad_id": integer(),
    "model.text.width": WIDTH,
    "model.text.unimodal_layers": LAYERS,
    "model.text.multimodal_layers": LAYERS,
    "model.text.num_heads": HEADS,
    "model.text.mlp_dim": WIDTH,
    "model.text.remat": choice("", "none", "full", "offload", *POLICIES),
    "model.text.interleaved": flag(),
    "model.text.tie_embeddings": flag(),
    "model.text.shifted_cls_mask": flag(),
    "model.pooler.kind": choice("cascade", "parallel", "shared"),
    "model.pooler.caption_queries": integer(0, 2**16),
    "model.pooler.num_heads": HEADS,
    "model.pooler.query_norm": flag(),
    "model.embed_dim": integer(0, 2**20),
    "model.dropout": SHARE,
    "model.stochastic_depth": SHARE,
    "model.dtype": choice("auto", "float32", "bfloat16"),
    "model.attention": choice("auto", "xla", "cudnn"),
    "model.remat": REMAT,
    "model.scan_unroll": LAYERS,
    "loss.contrastive.weight": number(),
    "loss.contrastive.kind": choice("softmax", "sigmoid"),
    "loss.contrastive.reduction": choice("sum", "mean"),
    "loss.contrastive.initial_temperature": number(1e-6, 1e6),
    "loss.contrastive.temperature_floor": number(1e-6, 1e6),
    "loss.contrastive.chunk_size": integer(1),
    "loss.captioning.weight": number(),
    "loss.captioning.chunk_size": integer(1),
    "loss.classification.weight": number(),
    "loss.classification.label_smoothing": SHARE,
    "head.input": choice("image", "text"),
    "head.classes": TEXTS,
    "head.class_file": PATH,
    "init.path": PATH,
    "init.use_ema": flag(),
    "init.only": pattern(),
    "optimizer.name": choice("adafactor", "adamw", "lion"),
    "optimizer.learning_rate": number(above=True),
    "optimizer.warmup_steps": integer(),
    "optimizer.schedule": choice("linear", "cosine", "rsqrt", "constant"),
    "optimizer.b1": SHARE,
    "optimizer.b2": SHARE,
    "optimizer.epsilon": number(1e-30, 1),
    "optimizer.clip_norm": number(),
    "optimizer.weight_decay": number(),
    "optimizer.weight_decays": FACTORS,
    "optimizer.learning_rates": FACTORS,
    "optimizer.layer_decay": number(0, 1, above=True),
    "optimizer.ema_decay": SHARE,
    "train.steps": integer(1),
    "train.epochs": number(0, 1e6),
    "train.batch_size": integer(1, 2**24),
    "train.grad_accum_steps": integer(1, 2**24),
    "train.quantization": choice("", "int8", "fp8"),
    "train.log_every": integer(1),
    "train.evaluate_every": integer(),
    "checkpoint.every": integer(1),
    "checkpoint.keep": integer(1),
    "data.dir": PATH,
    "data.cache_dir": PATH,
    "data.tokenizer.kind": choice("sentencepiece", "byte", "clip", "json"),
    "data.tokenizer.path": PATH,
    "data.train.format": choice(*FORMATS),
    "data.train.name": text(),
    "data.train.split": text(),
    "data.train.path": PATH,
    "data.train.image_keys": EXTENSIONS,
    "data.train.text_keys": EXTENSIONS,
    "data.train.class_names": PATH,
    "data.train.captions": choice(*CAPTIONS),
    "data.train.questions": FIELDS,
    "data.train.use_labels": flag(),
    "data.train.template": template(),
    "data.train.prompts": several(text(having="{}"), wanted="texts with {} for the labels"),
    "data.train.min_characters": integer(),
    "data.train.max_characters": integer(),
    "data.train.filters": FILTERS,
    "data.train.exclude_list": PATH,
    "data.train.min_crop_area": number(0, 1, above=True),
    "data.train.flip": flag(),
    "data.train.color_jitter": JITTER,
    "data.train.randaugment": row(
        integer(0, 1000), integer(0, 30), wanted="two whole numbers: operations, magnitude to 30"
    ),
    "data.num_images": integer(1, 4096),
    "data.blank_images": flag(),
    "data.threads": integer(1, 4096),
    "data.workers": integer(0, 4096),
    "data.max_bad_share": SHARE,
    "data.allow_changes": flag(),
    **{f"mesh.{axis}": SIZE for axis in AXES},
    "sharding.rules": SHARDING,
    "sharding.optimizer_rules": SHARDING,
    "distributed.start_seconds": integer(1, 10**6),
    "distributed.heartbeat_seconds": integer(1, 10**6),
    "compile_cache": PATH,
    "compiler_options": several(row(text(empty=False), plain()), wanted="rows (name, value)"),
    "watchdog.factor": number(0, 1e9),
    "watchdog.seconds": number(0, 1e9),
    "watchdog.end": flag(),
    "profile.start": integer(),
    "profile.steps": integer(),
}

# What a data set of `data.sources` may have: its share, and what it has otherwise than data.train.
SOURCE_KEYS: dict[str, Kind] = {"weight": number()} | {
    key.removeprefix("data.train."): kind
    for key, kind in KEYS.items()
    if key.startswith("data.train.")
}

_FILES = either(path(empty=False), several(path(empty=False), least=1))
# What an evaluation in `eval` may have; which kind has which is in coca_jax/evaluate/runner.py.
OPTIONS: dict[str, Kind] = {
    "kind": text(empty=False),
    "format": choice(*FORMATS),
    "name": text(),
    "split": text(),
    "path": _FILES,
    "image_keys": EXTENSIONS,
    "text_keys": EXTENSIONS,
    "class_names": PATH,
    "limit": either(nothing(), integer(1)),
    "num_images": integer(1, 4096),
    "train_split": text(),
    "train_path": _FILES,
    "train_limit": either(nothing(), integer(1)),
    "templates": dataclasses.replace(
        either(nothing(), several(text(having="{}"), least=1), path(empty=False)),
        description="texts with {} for the class name, or a file of them, or imagenet",
    ),
    "by": text(empty=False),
    "captions": choice("all", "first"),
    "questions": FIELDS,
    "texts": FIELDS,
    "candidates": dataclasses.replace(
        either(nothing(), TEXTS, path()), description="texts, or a file of them"
    ),
    "prompt": text(),
    "method": text(empty=False),
    "seed": SEED,
    "length": integer(2, 2**16),
    "min_length": integer(0, 2**16),
    "repetition_penalty": number(above=True),
    "beams": integer(1, 4096),
    "n_best": integer(1, 4096),
    "length_penalty": number(-10, 10),
    "early_stopping": flag(),
    "samples": integer(1, 4096),
    "temperature": number(above=True),
    "top_k": integer(),
    "top_p": number(0, 1, above=True),
    "l2": either(number(), several(number(), least=1, wanted="several to try")),
    "steps": integer(1),
    "num_heads": HEADS,
    "batch_size": integer(1, 2**24),
    "learning_rate": number(),
    "weight_decay": number(),
    "label_smoothing": SHARE,
}

# What a comparison has besides its stages; see coca_jax/sweep/compare.py.
_ROWS = several(Kind("a row", (), lambda value: True), least=1, wanted="rows, at least one")
COMPARISON: dict[str, Kind] = {
    "seeds": several(SEED, least=1, distinct=True, wanted=f"different seeds, each {SEED.wanted}"),
    "tables": _ROWS,
    "metrics": several(
        row(*[text(empty=False)] * 3), wanted="rows (title, stage, evaluation/metric)", least=1
    ),
}


def kind_of(key: str) -> Kind | None:
    """What a dotted key may hold, in an experiment or a comparison; None: there is no such key."""
    section, _, name = key.rpartition(".")
    return optional_keys(section).get(name) or KEYS.get(_of_a_stage(key)) or COMPARISON.get(key)


def optional_keys(section: str) -> dict[str, Kind]:
    """What a section may have without having it: an evaluation, or a data set of a mixture."""
    parts = _of_a_stage(section).split(".")
    if parts[0] == "eval" and len(parts) == 2:
        return OPTIONS
    return SOURCE_KEYS if parts[:2] == ["data", "sources"] and len(parts) == 3 else {}


def _of_a_stage(key: str) -> str:
    """The key without the stage of a comparison that it is of."""
    return key.split(".", 2)[-1] if key.startswith("stages.") else key
