"""Greedy decoding with a key/value cache against running the whole prefix again for each token.

    python benchmarks/captioning_cache.py --json cache.json

All caption the same images with the same random weights, 64 tokens each, with the image encoded
once. The peers run both halves of the decoder over the prefix again for each token: padded to all
64 positions, which is one program, and padded to the next multiple of 8, which is eight programs
(compiled before the clock starts). They take turns; medians.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from coca_jax.generate import Decoding, Greedy, generate
from coca_jax.models import (
    PRESETS,
    CoCa,
    CoCaConfig,
    ImageConfig,
    PoolerConfig,
    TextConfig,
    init_params,
)

SMOKE = {"repeats": 1, "batches": [2]}

BOS, NEVER = 1, -1
CONFIG = CoCaConfig(
    image=ImageConfig(size=224, patch=32, width=512, num_layers=4, num_heads=8, mlp_dim=2048),
    text=TextConfig(
        vocab_size=32_000,
        context_length=64,
        width=512,
        unimodal_layers=6,
        multimodal_layers=6,
        num_heads=8,
        mlp_dim=2048,
    ),
    pooler=PoolerConfig(caption_queries=64, num_heads=8),
    stacked=False,  # as `coca_jax.load` makes it
)
SMALL = dataclasses.replace(PRESETS["tiny"], stacked=False)


def whole_prefix(model, params, multiple):
    """Captions images without a cache: each new token runs all tokens before it again."""
    context_of = jax.jit(lambda params, x: model.apply(params, x, method="image_context"))

    @jax.jit
    def extend(params, ids, position, context):
        features, _ = model.apply(
            params, ids, method=lambda m, ids: m.decoder.unimodal_features(ids)
        )
        logits = model.apply(
            params, features, context, method=lambda m, f, c: m.decoder.caption_logits(f, c)
        )[:, position - 1]
        return jnp.argmax(logits.at[:, jnp.array([0, BOS])].set(-jnp.inf), axis=-1)

    length = model.config.text.context_length

    def run(pixels):
        context = context_of(params, pixels)
        ids = np.zeros((len(pixels), length), np.int32)
        ids[:, 0] = BOS
        for position in range(1, length):
            padded = min(-(-position // multiple) * multiple, length)
            ids[:, position] = extend(params, ids[:, :padded], position, context)
        return ids

    return run


def median_seconds(functions, pixels, repeats):
    """Median seconds of each function, which take turns."""
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function(pixels))
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    """Measures batches of several sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    model = CoCa(SMALL if options.smoke else CONFIG)
    length, size = model.config.text.context_length, model.config.image.size
    params = jax.jit(lambda: nn.meta.unbox(init_params(model, jax.random.key(0))))()
    decoding = Decoding(BOS, NEVER, pad_id=0, length=length, suppress=(0, BOS))
    cached = jax.jit(lambda params, x: generate(model, params, x, decoding, Greedy()).ids[:, 0])
    peers = {n: whole_prefix(model, {"params": params}, n) for n in (length, 8)}
    rows = []
    for batch in options.batches:
        shape = (batch, size, size, 3)
        pixels = jnp.float32(np.random.default_rng(0).standard_normal(shape))
        functions = {"cached": lambda p: cached(params, p)}
        functions |= {f"{n} padded": peer for n, peer in peers.items()}
        first = [np.asarray(function(pixels)) for function in functions.values()]  # compiles
        same = min(float((first[0] == ids).mean()) for ids in first[1:])
        seconds = median_seconds(functions, pixels, options.repeats)
        ratios = {f"{name} ratio": s / seconds["cached"] for name, s in seconds.items()}
        rows.append({"batch": batch, **seconds, **ratios, "same_tokens": same})
    print(f"{length} tokens on {jax.devices()[0].device_kind}, medians of {options.repeats}")
    heads = f"{f'to {length}':>12}{'':>8}{'to 8s':>12}{'':>8}{'same tokens':>14}"
    print(f"{'batch':>5}{'cached':>10}{heads}")
    for row in rows:
        cells = "".join(
            f"{row[f'{n} padded']:>10.3f} s{row[f'{n} padded ratio']:>7.1f}x" for n in peers
        )
        print(f"{row['batch']:>5}{row['cached']:>8.3f} s{cells}{row['same_tokens']:>14.1%}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
