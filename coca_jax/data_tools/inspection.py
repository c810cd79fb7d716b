"""A look at the data as training will see it: counts, lengths, faults, speed and pictures."""

import functools
import io
import itertools
import math
import os
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BAD_KINDS, BadExample
from coca_jax.data.examples import Part
from coca_jax.data.from_config import make_train_stream, weights
from coca_jax.data.mixture import Mixture, describe
from coca_jax.data.options import data_config
from coca_jax.data.pipeline import TrainStream
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.data.transforms import multi_image
from coca_jax.errors import UserError
from coca_jax.io.files import write_whole
from coca_jax.io.visible import visible

STAGES = ("read", "caption", "decode", "augment", "tokenize")
BATCH = 32
PICTURES = 24  # of the contact sheet
BARS = 10  # of the histogram
COMMONEST = 8  # classes that are printed
LONGEST = 2**14  # tokens that a caption is counted to


def inspect(
    data: Any,
    *,
    image_size: tuple[int, int],
    text_length: int,
    seed: int,
    examples: int,
    classes: Sequence[str] = (),
    sheet: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Reads the first examples of the stream and measures them.

    Args:
      data: `config.data`, as options or as it stands in the configuration.
      image_size: height and width in pixels.
      text_length: ids of a text, bos and eos included.
      seed: of the stream.
      examples: how many to read.
      classes: names of those that a head tells apart; none: there is no head.
      sheet: where to draw the first of them with their captions, as a PNG.

    Returns:
      "sources" (name -> records, share, passes an epoch), "notes" (name -> what its reader noted:
      kind -> count, text, lost), "lost" (whether any of these are, or an example was bad),
      "captions" (lengths), "classes" (name -> examples; "": of none of them; without a head it is
      empty), "replaced" (kind -> examples), "reasons" (kind -> what is wrong with the first of
      them), "worst_shards", "examples_per_second" of the whole stream, and of each stage alone on
      one thread, "microseconds" an example.

    Raises:
      UserError: the data cannot be opened, hold no usable example, or have other classes.
    """
    if examples < 1:
        raise UserError(f"the number of examples to inspect should be positive, not {examples}")
    data = data_config(data)
    stream = make_train_stream(
        data,
        image_size=image_size,
        text_length=text_length,
        batch_size=BATCH,
        seed=seed,
        classes=classes,
    )
    parts, tokenizer = stream.make_batch.parts, stream.make_batch.tokenizer
    sizes = {name: len(part.source) for name, part in zip(data.data_sets(), parts, strict=True)}
    shares = describe(sizes, weights(data))
    result: dict[str, Any] = {
        "sources": {name or "train": {"records": sizes[name]} | shares[name] for name in sizes}
    }
    result["notes"] = {
        name or "train": {note.kind: note._asdict() for note in part.source.notes}
        for name, part in zip(sizes, parts, strict=True)
    }
    noted = [note for notes in result["notes"].values() for note in notes.values()]
    captions, result["reasons"], result["microseconds"] = _stages(
        parts, stream.mixture, tokenizer, seed, examples, text_length, data.num_images
    )
    result["captions"] = lengths(captions, tokenizer, text_length)
    try:
        measured, drawn = _streamed(stream, math.ceil(examples / BATCH), classes)
    except UserError as error:  # the notes may say why
        raise UserError("\n".join([str(error), *(note["text"] for note in noted)])) from error
    result |= measured
    result["lost"] = any(note["lost"] for note in noted) or any(
        result["replaced"].get(kind) for kind in BAD_KINDS
    )
    if sheet is not None:
        image = np.concatenate([batch["image"] for batch in drawn])[:PICTURES]
        image = multi_image.side_by_side(image)
        texts = tokenizer.decode(np.concatenate([batch["text"] for batch in drawn])[:PICTURES])
        draw_sheet(image, texts, sheet)
    return result


def _streamed(
    stream: TrainStream, count: int, classes: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the first `count` batches show, and those of them that are drawn."""
    batches, drawn, labels = stream.batches(), [], Counter[int]()
    begin = time.perf_counter()
    for batch in itertools.islice(batches, count):
        if len(drawn) * BATCH < PICTURES:
            drawn.append(batch)
        labels.update(batch["label"].tolist() if classes else ())
    seconds = time.perf_counter() - begin
    batches.close()
    kinds: Counter[str] = Counter()
    for fault, times in stream.faults.items():
        kinds[fault.kind] += times
    return {
        "classes": {classes[i] if i >= 0 else "": n for i, n in labels.most_common()},
        "examples_per_second": count * BATCH / seconds,
        "replaced": dict(kinds),
        "worst_shards": stream.worst_shards(),
    }, drawn


def _stages(
    parts: Sequence[Part],
    mixture: Mixture,
    tokenizer: Tokenizer,
    seed: int,
    examples: int,
    text_length: int,
    num_images: int,
) -> tuple[list[str], dict[str, str], dict[str, float]]:
    """Captions; what is wrong with bad ones, by kind; and microseconds an example of each stage."""
    seconds, counts, captions, reasons = Counter(), Counter(), [], {}

    def timed(stage: str, make: Any) -> Any:
        begin = time.perf_counter()
        try:
            return make()
        finally:
            seconds[stage] += time.perf_counter() - begin
            counts[stage] += 1

    for place in range(examples):
        pick, rng = mixture[place], np.random.default_rng((seed, place))
        part = parts[pick.part]
        try:
            record = timed("read", lambda: part.source[pick.index])  # noqa: B023
            text = timed("caption", lambda: part.make_caption(record, pick.visit, rng).text)  # noqa: B023
            captions.append(text)
            side = part.augment.least_side
            found = timed(
                "decode",
                functools.partial(multi_image.decode_images, record["image"], num_images, side),
            )
            timed("augment", lambda: part.augment.alike(found, rng, True))  # noqa: B023
            timed("tokenize", lambda: tokenizer.encode([text], text_length))  # noqa: B023
        except Exception as error:  # whatever is wrong with the record; the stream counts it
            bad = error if isinstance(error, BadExample) else BadExample("bad_record", error)
            where = f"record {pick.index} of {part.source.shard(pick.index)}"
            reasons.setdefault(bad.kind, f"{where}: {bad.reason}")
    return captions, reasons, {s: 1e6 * seconds[s] / counts[s] for s in STAGES if counts[s]}


def lengths(captions: Sequence[str], tokenizer: Tokenizer, text_length: int) -> dict[str, Any]:
    """How long captions are, in tokens (bos and eos included), and what of them is lost.

    Returns:
      "count", "characters" and "tokens" (medians and 95th percentiles), "histogram" of tokens as
      rows (from, below, captions), "truncated" and "unknown" as shares of captions and of tokens.
    """
    if not captions:
        return {"count": 0}
    rows = [tokenizer.encode([text], min(LONGEST, 4 * len(text) + 2))[0] for text in captions]
    # No text has the end token within it, so the first one is the end.
    tokens = np.array([int(np.flatnonzero(row == tokenizer.eos_id)[0]) + 1 for row in rows])
    ids = np.concatenate([row[1 : count - 1] for row, count in zip(rows, tokens, strict=True)])
    edges = np.unique(np.linspace(0, max(tokens.max() + 1, text_length), BARS + 1, dtype=int))
    counts, _ = np.histogram(tokens, edges)
    return {
        "count": len(captions),
        "characters": _spread(np.array([len(text) for text in captions])),
        "tokens": _spread(tokens),
        "histogram": [
            [int(low), int(high), int(n)]
            for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
        "truncated": float((tokens > text_length).mean()),
        "unknown": float(np.isin(ids, list(tokenizer.unknown_ids)).mean()) if len(ids) else 0.0,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def _classes(counts: dict[str, int]) -> str:
    """The commonest classes with their shares, and of how many examples the head learns nothing."""
    total, known = sum(counts.values()), [name for name in counts if name]
    shares = ", ".join(f"{name} {counts[name] / total:.1%}" for name in known[:COMMONEST])
    more = f", and {len(known) - COMMONEST:,} more" if len(known) > COMMONEST else ""
    return f"classes: {shares or 'none'}{more}; of none: {counts.get('', 0) / total:.1%}"


def draw_sheet(
    image: UInt8[np.ndarray, "n h w 3"], texts: Sequence[str], path: str | os.PathLike
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
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100, metadata={"Title": "a batch as the model sees it"})
    write_whole(path, drawn.getvalue())


def format_inspection(result: dict[str, Any], text_length: int) -> str:
    """What `inspect` found, for people."""
    lines = [f"{'data set':<24}{'records':>14}{'share':>9}{'passes an epoch':>18}"]
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
            f"longer than {text_length} tokens, and cut: {captions['truncated']:.1%}; unknown "
            f"tokens: {captions['unknown']:.2%}",
        ]
        most = max(count for _, _, count in captions["histogram"])
        for low, high, count in captions["histogram"]:
            lines.append(f"{low:>6} to {high - 1:<6}{count:>8,}  {'█' * round(40 * count / most)}")
    if classes := result["classes"]:
        lines.append(f"\n{_classes(classes)}")
    replaced = result["replaced"]
    lines.append(f"\nreplaced: {', '.join(f'{k} {n:,}' for k, n in replaced.items()) or 'none'}")
    lines += [f"{kind}, such as {why}" for kind, why in result["reasons"].items()]
    if result["worst_shards"]:
        lines.append(f"most of the bad ones were in {result['worst_shards']}")
    stages = ", ".join(f"{stage} {us:,.0f}" for stage, us in result["microseconds"].items())
    lines.append(f"\nmicroseconds an example, one thread: {stages}")
    lines.append(f"the whole stream: {result['examples_per_second']:,.0f} examples a second")
    return visible("\n".join(lines))
