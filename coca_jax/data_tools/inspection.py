"""`coca data inspect`: statistics of the training data, and a sheet of sample images."""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BAD_KINDS, BadExample
from coca_jax.data.exclude_list import contains
from coca_jax.data.from_config import make_train_stream, weights
from coca_jax.data.mixture import describe
from coca_jax.data.options import DataConfig, data_config
from coca_jax.data.packing import PackingConfig, shared_out
from coca_jax.data.pipeline import TrainStream
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.data.transforms import multi_image
from coca_jax.data.transforms.images import COVERING, Resizing
from coca_jax.errors import UserError
from coca_jax.io import http
from coca_jax.io.files import write_whole
from coca_jax.io.visible import visible
from coca_jax.patches import Patches, Target, join

STAGES = ("read", "caption", "decode", "augment", "tokenize")
BATCH = 32
SHEET_IMAGES = 24
BARS = 10  # of the histogram
PACKED = (2, 4, 8)  # captions in a row
CLASSES_SHOWN = 8
LONGEST = 2**14  # tokens; longer captions count as this long


def inspect(
    data: Any,
    *,
    image_size: Target,
    text_length: int,
    seed: int,
    examples: int,
    classes: Sequence[str] = (),
    resizing: Resizing = COVERING,
    sheet: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Reads the first examples of the training stream and measures them.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      image_size: height and width in pixels, or a budget of patches.
      text_length: the number of ids in a text, with bos and eos.
      seed: the seed of the stream.
      examples: the number of examples to read.
      classes: the names of a head's classes; empty if the model has no head.
      resizing: of images that are not cropped at random.
      sheet: the PNG file for the first examples with their captions; None: none is drawn.

    Returns:
      "sources" (name -> records, share, passes per epoch), "notes" (name -> notes of its reader:
      kind -> count, text, lost), "lost" (whether data were lost or an example was bad),
      "captions" (lengths), "classes" (name -> examples; "" for no class; empty without a head),
      "replaced" (kind -> examples), "reasons" (kind -> the error of the first such example),
      "worst_shards", "examples_per_second" of the whole stream, and "microseconds" (the time per
      example of each stage alone, on one thread).

    Raises:
      UserError: the data cannot be opened, hold no usable example, or have other classes.
    """
    if examples < 1:
        raise UserError(f"the number of examples to inspect should be positive, not {examples}")
    # Packing changes the order within a batch, and no example.
    data = dataclasses.replace(data_config(data), packing=PackingConfig())
    stream = make_train_stream(
        data,
        image_size=image_size,
        text_length=text_length,
        batch_size=BATCH,
        seed=seed,
        classes=classes,
        resizing=resizing,
    )
    result = _of_sources(data, stream)
    result |= _of_stages(stream, seed, examples, text_length, data.num_images)
    notes = [note for notes in result["notes"].values() for note in notes.values()]
    try:
        of_stream, first_batches = _of_stream(stream, math.ceil(examples / BATCH), classes)
    except UserError as error:  # the notes may explain it
        raise UserError("\n".join([str(error), *(note["text"] for note in notes)])) from error
    result |= of_stream
    is_bad = any(result["replaced"].get(kind) for kind in BAD_KINDS)
    result["lost"] = is_bad or any(note["lost"] for note in notes)
    if sheet is not None:
        _draw(first_batches, stream.make_batch.tokenizer, sheet)
    return result


def _draw(
    batches: Sequence[dict[str, Any]], tokenizer: Tokenizer, sheet: str | os.PathLike
) -> None:
    image = join([batch["image"] for batch in batches])[:SHEET_IMAGES]
    ids = np.concatenate([batch["text"] for batch in batches])[:SHEET_IMAGES]
    native = isinstance(image, Patches)
    drawn = [one.whole() for one in image] if native else multi_image.side_by_side(image)
    draw_sheet(drawn, tokenizer.decode(ids), sheet)


def _of_sources(data: DataConfig, stream: TrainStream) -> dict[str, Any]:
    """Sizes, shares and notes of the data sets, by name."""
    names = [name or "train" for name in data.data_sets()]
    sources = [data_set.source for data_set in stream.make_batch.data_sets]
    sizes = {name: len(s) for name, s in zip(data.data_sets(), sources, strict=True)}
    shares = describe(sizes, weights(data)).values()
    return {
        "sources": {
            name: {"records": len(source)} | share
            for name, source, share in zip(names, sources, shares, strict=True)
        },
        "notes": {
            name: {note.kind: note._asdict() for note in source.notes}
            for name, source in zip(names, sources, strict=True)
        },
    }


def _of_stream(
    stream: TrainStream, count: int, classes: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Counts and speed of the first `count` batches, and the batches for the sheet."""
    batches, first_batches, labels = stream.batches(), [], Counter[int]()
    begin = time.perf_counter()
    for batch in itertools.islice(batches, count):
        if len(first_batches) * BATCH < SHEET_IMAGES:
            first_batches.append(batch)
        labels.update(batch["label"].tolist() if classes else ())
    seconds = time.perf_counter() - begin
    batches.close()
    kinds: Counter[str] = Counter()
    for error, times in stream.errors.items():
        kinds[error.kind] += times
    return {
        "classes": {classes[i] if i >= 0 else "": n for i, n in labels.most_common()},
        "examples_per_second": count * BATCH / seconds,
        "replaced": dict(kinds),
        "worst_shards": stream.worst_shards(),
    }, first_batches


def _of_stages(
    stream: TrainStream, seed: int, examples: int, text_length: int, num_images: int
) -> dict[str, Any]:
    """Lengths of captions, reasons for bad examples, and the time of each stage."""
    tokenizer = stream.make_batch.tokenizer
    clock, captions, reasons = _Clock(), [], {}
    tokenizer.encode(["a"], text_length)  # what it loads at its first text is no cost of an example
    for number in range(examples):
        ref, rng = stream.mixture[number], np.random.default_rng((seed, number))
        source, make_caption, augment, excluded, _ = stream.make_batch.data_sets[ref.source]
        try:
            if contains(excluded, ref.index):
                raise BadExample("filtered_duplicate", "exclude_list names it")
            with clock.measure("read"):
                record = source[ref.index]
            with clock.measure("caption"):
                text = make_caption(record, ref.epoch, rng).text
            captions.append(text)
            with clock.measure("decode"):
                selected = multi_image.select_images(record["image"], num_images)
                cropped = [augment.crop(image, rng) for image in selected]
            with clock.measure("augment"):
                [augment.change(image, rng, True) for image in cropped]
            with clock.measure("tokenize"):
                tokenizer.encode([text], text_length)
        except Exception as error:  # any fault of the record; the stream counts it
            bad = error if isinstance(error, BadExample) else BadExample("bad_record", error)
            place = f"record {ref.index} of {http.shown(source.shard(ref.index))}"
            reasons.setdefault(bad.kind, f"{place}: {bad.reason}")
    return {
        "captions": lengths(captions, tokenizer, text_length),
        "reasons": reasons,
        "microseconds": clock.means(),
    }


class _Clock:
    """Measures the mean time of each stage."""

    def __init__(self):
        self._seconds, self._counts = Counter[str](), Counter[str]()

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the duration of the block, even if it raises."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - begin
            self._counts[stage] += 1

    def means(self) -> dict[str, float]:
        """The mean time of each stage that was measured, in microseconds."""
        return {s: 1e6 * self._seconds[s] / n for s in STAGES if (n := self._counts[s])}


def lengths(captions: Sequence[str], tokenizer: Tokenizer, text_length: int) -> dict[str, Any]:
    """Measures the lengths of captions, in tokens with bos and eos, and how much of them is lost.

    Returns:
      "count", "characters" and "tokens" (medians and 95th percentiles), "histogram" (rows of first
      token count, token count it stays below, captions), "truncated" (share of captions),
      "unknown" (share of tokens), and "packing" (rows of texts in a row, length of the fullest row,
      share of padding; the first is without packing).
    """
    if not captions:
        return {"count": 0}
    rows = [tokenizer.encode([text], min(LONGEST, 4 * len(text) + 2))[0] for text in captions]
    tokens = np.array([int(np.flatnonzero(row == tokenizer.eos_id)[-1]) + 1 for row in rows])
    ids = np.concatenate([row[1 : count - 1] for row, count in zip(rows, tokens, strict=True)])
    edges = np.unique(np.linspace(0, max(tokens.max() + 1, text_length), BARS + 1, dtype=int))
    counts, _ = np.histogram(tokens, edges)
    return {
        "count": len(captions),
        "characters": _quantiles(np.array([len(text) for text in captions])),
        "tokens": _quantiles(tokens),
        "histogram": [
            [int(low), int(high), int(n)]
            for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
        "truncated": float((tokens > text_length).mean()),
        "packing": _packing(np.minimum(tokens, text_length), text_length),
        "unknown": float(np.isin(ids, list(tokenizer.unknown_ids)).mean()) if len(ids) else 0.0,
    }


def _packing(tokens: np.ndarray, text_length: int) -> list[tuple[int, int, float]]:
    """The padding of texts in rows of their own, and of several in a row."""
    rows = [(1, text_length, float(1 - tokens.mean() / text_length))]
    for count in PACKED:
        block = PackingConfig(count).examples_per_block
        starts = range(0, len(tokens) - block + 1, block)
        blocks = [tokens[start : start + block] for start in starts]
        totals = [part[row].sum() for part in blocks for row in shared_out(part, count)]
        if totals:
            length = int(max(totals))
            rows.append((count, length, float(1 - np.mean(totals) / length)))
    return rows


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def _classes(counts: dict[str, int]) -> str:
    """A line with the shares of the most common classes, and of examples without a class."""
    total, names = sum(counts.values()), [name for name in counts if name]
    shares = ", ".join(f"{name} {counts[name] / total:.1%}" for name in names[:CLASSES_SHOWN])
    more = f", and {len(names) - CLASSES_SHOWN:,} more" if len(names) > CLASSES_SHOWN else ""
    return f"classes: {shares or 'none'}{more}; of none: {counts.get('', 0) / total:.1%}"


def draw_sheet(
    image: UInt8[np.ndarray, "n h w 3"] | Sequence[UInt8[np.ndarray, "_ _ 3"]],
    texts: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draws the images in a grid, each above its text, as a PNG."""
    from matplotlib.figure import Figure

    columns = min(6, len(image))
    rows = math.ceil(len(image) / columns)
    figure = Figure(figsize=(2.2 * columns, 2.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, pixels, text in zip(axes, image, texts, strict=False):
        axis.imshow(pixels)
        text = textwrap.shorten(visible(text), 110, placeholder=" ...")
        lines = "\n".join(textwrap.wrap(text, 28))
        axis.set_title(lines, fontsize=8, y=-0.03, pad=0, va="top", parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, metadata={"Title": "a batch as the model sees it"})
    write_whole(path, png.getvalue())


def format_inspection(result: dict[str, Any], text_length: int) -> str:
    """The result of `inspect` as text."""
    lines = [f"{'data set':<24}{'records':>14}{'share':>9}{'passes per epoch':>18}"]
    for name, row in result["sources"].items():
        lines.append(f"{name:<24}{row['records']:>14,}{row['share']:>9.1%}{row['passes']:>18.2f}")
    for name, notes in result["notes"].items():
        lines += [f"{name}: {note['text']}" for note in notes.values()]
    captions = result["captions"]
    if captions["count"]:
        characters, tokens = captions["characters"], captions["tokens"]
        lines += [
            f"\ncaptions of {captions['count']:,} examples: {characters['median']:.0f} characters "
            f"(95%: {characters['p95']:.0f}), {tokens['median']:.0f} tokens "
            f"(95%: {tokens['p95']:.0f})",
            f"truncated to {text_length} tokens: {captions['truncated']:.1%}; unknown tokens: "
            f"{captions['unknown']:.2%}",
        ]
        most = max(count for _, _, count in captions["histogram"])
        for low, high, count in captions["histogram"]:
            lines.append(f"{low:>6} to {high - 1:<6}{count:>8,}  {'█' * round(40 * count / most)}")
        lines += [
            f"{texts} to a row of {length} tokens: {padding:.0%} padding"
            for texts, length, padding in captions["packing"]
        ]
    if classes := result["classes"]:
        lines.append(f"\n{_classes(classes)}")
    replaced = result["replaced"]
    lines.append(f"\nreplaced: {', '.join(f'{k} {n:,}' for k, n in replaced.items()) or 'none'}")
    lines += [f"{kind}, such as {why}" for kind, why in result["reasons"].items()]
    if result["worst_shards"]:
        lines.append(f"shards with the most bad examples: {result['worst_shards']}")
    stages = ", ".join(f"{stage} {us:,.0f}" for stage, us in result["microseconds"].items())
    lines.append(f"\nmicroseconds per example, one thread: {stages}")
    lines.append(f"the whole stream: {result['examples_per_second']:,.0f} examples per second")
    return visible("\n".join(lines))
