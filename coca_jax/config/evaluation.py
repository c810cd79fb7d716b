"""Options of the evaluations in `eval`; which has which is in `coca_jax.evaluate.runner`."""

import dataclasses

from coca_jax.config.kinds import EXTENSIONS, SEED, SHARE, TEXTS, TWO_FIELDS
from coca_jax.data.sources import sources
from coca_jax.fields import (
    Field,
    Kind,
    choice,
    either,
    flag,
    integer,
    nothing,
    number,
    path,
    registered,
    several,
    text,
)
from coca_jax.models.config import HEADS

_FILES = either(path(empty=False), several(path(empty=False), least=1))
_KINDS: dict[str, Kind] = {
    "kind": text(empty=False),
    "format": registered(sources),
    "name": text(),
    "split": text(),
    "path": _FILES,
    "image_keys": EXTENSIONS,
    "text_keys": EXTENSIONS,
    "class_names": path(),
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
    "questions": TWO_FIELDS,
    "texts": TWO_FIELDS,
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

OPTIONS = {name: Field(None, "", kind, True) for name, kind in _KINDS.items()}
