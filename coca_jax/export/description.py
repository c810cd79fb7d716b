"""What an exported model is: the content of `export.json`, and the files of its tokenizer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

import coca_jax
from coca_jax.data.tokenizers import tokenizers
from coca_jax.export.functions import Spec, Traced
from coca_jax.inference import LoadedModel
from coca_jax.interop.tokenizer_files import tokenizer_files

READABLE = ("clip", "json", "sentencepiece", "byte")  # kinds that are not a user's own


def describe(
    model: LoadedModel, traced: Sequence[Traced], file_format: str, tokenizer: Iterable[str]
) -> dict[str, Any]:
    """The content of `export.json` but for the formats' own settings.

    Args:
      model: the model.
      traced: its functions.
      file_format: ending of the functions' files.
      tokenizer: names of the tokenizer's files.
    """
    config = model.config
    captions = {
        "length": config.text.context_length,  # with the begin token
        "suppress": list(model.decoding().suppress),  # ids that are never generated
    }
    return {
        "model": model.identity,
        "versions": {"coca_jax": coca_jax.__version__, "jax": jax.__version__},
        "functions": {
            function.name: {
                "file": f"{function.name}.{file_format}",
                "inputs": _ports(function.inputs),
                "outputs": _ports(function.outputs),
                "weights": list(function.weights),
            }
            for function in traced
        },
        "preprocessing": _preprocessing(model),
        "tokenizer": _tokenizer(model) | {"files": sorted(tokenizer)},
        "text_length": config.text.context_length,
        **({"similarity": _similarity(model)} if config.has_cls else {}),
        **({"captions": captions} if config.captioning else {}),
    }


def files_of_tokenizer(model: LoadedModel) -> dict[str, bytes]:
    """The files of the model's tokenizer by name, as other readers know them if there are any."""
    kind, path = _kind(model), model.source.tokenizer_file
    content = tokenizers[kind].standalone_file(path) if path else b""
    if kind in READABLE:
        return tokenizer_files(kind, model.tokenizer, content)
    return {path.name: content} if path else {}


def _ports(specs: dict[str, Spec]) -> list[dict[str, Any]]:
    """Names, shapes and types of inputs or outputs; an axis of any size is a string."""
    return [
        {
            "name": name,
            "shape": [size if isinstance(size, int) else str(size) for size in spec.shape],
            "dtype": str(spec.dtype),
        }
        for name, spec in specs.items()
    ]


def _preprocessing(model: LoadedModel) -> dict[str, Any]:
    """How an image becomes the encoder's input, which normalizes bytes itself."""
    image = model.config.image
    height, width = image.pixels
    return {
        "height": height,
        "width": width,
        "resize_mode": image.resize_mode,
        "interpolation": image.interpolation,
        "fill_color": image.fill_color,
        "mean": list(image.mean),
        "std": list(image.std),
    }


def _tokenizer(model: LoadedModel) -> dict[str, Any]:
    names = ("vocab_size", "bos_id", "eos_id", "pad_id")
    return {"kind": _kind(model)} | {name: getattr(model.tokenizer, name) for name in names}


def _similarity(model: LoadedModel) -> dict[str, float]:
    """What the cosine of two embeddings is multiplied by, and what is added, for a logit."""
    bias = float(model.params.get("logit_bias", 0))
    return {"scale": math.exp(float(model.params["logit_scale"])), "bias": bias}


def _kind(model: LoadedModel) -> str:
    return model.source.config.data.tokenizer.kind
