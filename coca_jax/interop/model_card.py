"""README.md of a model's folder: what it is, what it was trained on, how good it is."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coca_jax import __version__
from coca_jax.config import build, model_config
from coca_jax.evaluate.results import format_value, read_step
from coca_jax.inference.sources import Checkpoint, Source
from coca_jax.interop.hub import PREFIX, public_name
from coca_jax.io.stored import Damaged, read_json
from coca_jax.io.visible import visible
from coca_jax.losses.registry import trained_losses
from coca_jax.models import CoCaConfig
from coca_jax.planning import parameter_counts

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the hub's identifiers, such as apache-2.0
# `source` in the config.json of a converted model, if it holds no path.
ORIGIN = re.compile(r"(hf-hub:\S+|[^/\\]+) \(OpenCLIP, [^/\\]+\)")
USE = """\
```python
import coca_jax

model = coca_jax.load("{name}")
pixels = model.preprocess(["a.jpg"])
model.caption(pixels)
model.encode_image(pixels) @ model.encode_text(model.tokenize(["a cat", "a dog"])).T
```

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("{other}")
tokenizer = open_clip.get_tokenizer("{other}")
```
"""


def model_card(source: Source, title: str, license_id: str, notes: Sequence[str]) -> str:
    """The text of README.md, which begins with the hub's metadata.

    Args:
      source: the model. Of a run, its configuration and `eval/<step>.json` are described; of paths
        and URLs only the last part is shown.
      title: a name for the model.
      license_id: the license's identifier on the hub.
      notes: what users of OpenCLIP should know, a sentence each.
    """
    model = model_config(source.config)
    parts = [
        _metadata(model, license_id),
        f"# {_text(title)}",
        "A contrastive captioner (CoCa, [arXiv 2205.01917](https://arxiv.org/abs/2205.01917)): it "
        "embeds images and texts in a shared space, and writes captions. The weights have "
        "OpenCLIP's form.",
        "## Model",
        _table(_architecture(source, model)),
        "## Training",
        _table(_training(source)),
    ]
    if metrics := _metrics(source):
        parts += [f"## Evaluation at step {source.step:,}", _evaluations(metrics)]
    parts += ["## Use", _use("FOLDER", "local-dir:FOLDER")]
    if notes:
        parts.append("\n".join(f"- In OpenCLIP: {note}." for note in notes))
    parts.append(f"Written by coca_jax {__version__}.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def for_hub(text: str, repository: str) -> str:
    """A model card that says where on the hub the model is, in place of a folder."""
    return text.replace(_use("FOLDER", "local-dir:FOLDER"), _use(*[f"{PREFIX}{repository}"] * 2))


def _use(name: str, other: str) -> str:
    return USE.format(name=name, other=other).strip()


def _metadata(model: CoCaConfig, license_id: str) -> str:
    lines = [
        "---",
        f'license: "{license_id}"',  # without quotes, "no" would be False
        "library_name: open_clip",
        f"pipeline_tag: {'zero-shot-image-classification' if model.has_cls else 'image-to-text'}",
        "tags:",
        *(f"- {tag}" for tag in ("coca", "coca_jax", "image-to-text", "jax")),
        "---",
    ]
    return "\n".join(lines)


def _architecture(source: Source, model: CoCaConfig) -> Iterable[tuple[str, str]]:
    image, text = model.image, model.text
    yield "parameters", f"{sum(parameter_counts(model).values()):,}"
    height, width = image.pixels
    yield (
        "image encoder",
        f"{image.num_layers} layers of width {image.width}, {width} x {height} pixels in patches "
        f"of {image.patch}",
    )
    yield (
        "text decoder",
        f"{text.unimodal_layers} + {text.multimodal_layers} layers of width {text.width}, "
        f"{text.vocab_size:,} token ids, {text.context_length} a text",
    )
    yield "embeddings", f"{model.embed_dim or text.width} numbers"
    yield "tokenizer", source.config.data.tokenizer.kind


def _training(source: Source) -> Iterable[tuple[str, str]]:
    if not isinstance(source, Checkpoint):
        yield "converted from", public_name(source.title)
        return
    if not source.step:
        yield "converted from", _origin(source)
        return
    config = source.config
    train, optimizer = config.train, config.optimizer
    yield "data", ", ".join(_data(config))
    yield "steps", f"{source.step:,} of {train.steps:,}, each of {train.batch_size:,} pairs"
    if seen := source.store.metadata(source.step).get("examples_seen"):
        yield "examples seen", f"{seen:,}"
    yield "optimizer", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}"
    losses = trained_losses(build(config).loss)
    yield "losses", ", ".join(f"{name} (weight {config.loss[name].weight:g})" for name in losses)
    if config.optimizer.ema_decay:
        yield "parameters", f"the moving average, decay {config.optimizer.ema_decay:g}"
    if config.init.path:
        yield "began from", public_name(config.init.path)


def _data(config: Any) -> Iterable[str]:
    """A phrase for each data set of the mixture; of paths and URLs only the last part."""
    for name, options in build(config).data.data_sets().items():
        what = public_name(options.path) if options.path else f"{options.name}/{options.split}"
        yield f"{name}: {what}" if name else what


def _origin(source: Checkpoint) -> str:
    """The weights that a model was converted from."""
    try:
        origin = read_json(source.workdir / "config.json").get("source")
    except (FileNotFoundError, Damaged):
        origin = None
    is_public = isinstance(origin, str) and ORIGIN.fullmatch(origin)
    return origin if is_public else "weights of another project"


def _metrics(source: Source) -> Mapping[str, Mapping[str, Any]]:
    return read_step(source.workdir, source.step) if isinstance(source, Checkpoint) else {}


def _evaluations(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (f"{_text(evaluation)} {_text(name)}", format_value(value))
        for evaluation, values in metrics.items()
        for name, value in values.items()
        if isinstance(value, int | float)
    ]
    return _table(rows)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {_text(name)} | {_text(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _text(value: Any) -> str:
    """A value in one line of a table."""
    return " ".join(visible(str(value)).split()).replace("|", "\\|")
