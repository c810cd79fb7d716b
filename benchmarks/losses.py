"""The losses against their plain formulas: memory of the compiled programs, and seconds.

    python benchmarks/losses.py --json losses.json

Memory is what the compiler sets aside besides arguments and results, of the loss with its
gradients, for one device at full size: 512 texts of 64 tokens among 64,000 words, and 8,192 pairs.
Nothing of that size is run; time is measured at fewer texts and pairs, in turns, as medians.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from coca_jax.losses import captioning_loss, softmax_loss

SMOKE = {
    "rounds": 1,
    "width": 16,
    "texts": 8,
    "words": 512,
    "pairs": 64,
    "timed_texts": 4,
    "timed_pairs": 32,
}


def plain_captioning(features, kernel, ids):
    """The captioning loss with all logits at once."""
    logits = jnp.einsum("ntd,dv->ntv", features, kernel, preferred_element_type=jnp.float32)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
    real = ids[:, 1:] != 0
    return jnp.sum(jnp.where(real, nats, 0)) / jnp.maximum(jnp.sum(real), 1)


def plain_contrastive(images, texts, scale):
    """The contrastive loss with the whole similarity matrix at once."""
    logits = scale * jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits)))
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, jnp.arange(len(logits)))
    return jnp.mean(rows + columns)


def captioning_arguments(texts: int, length: int, width: int, words: int):
    """Shapes of features, softmax kernel and ids."""
    return (
        jax.ShapeDtypeStruct((texts, length, width), jnp.float32),
        jax.ShapeDtypeStruct((width, words), jnp.float32),
        jax.ShapeDtypeStruct((texts, length), jnp.int32),
    )


def contrastive_arguments(pairs: int, width: int):
    """Shapes of both embeddings and the scale."""
    rows = jax.ShapeDtypeStruct((pairs, width), jnp.float32)
    return rows, rows, jax.ShapeDtypeStruct((), jnp.float32)


def compiled(loss, arguments, gradients: int):
    """The loss and its gradients with respect to its first arguments."""
    return jax.jit(jax.value_and_grad(loss, argnums=range(gradients))).lower(*arguments).compile()


def example(shape: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
    """Unit rows, word ids that are not padding, or a scale."""
    if shape.dtype == jnp.int32:
        return jax.random.randint(key, shape.shape, 1, 500)
    if not shape.shape:
        return jnp.float32(10)
    x = jax.random.normal(key, shape.shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def seconds_in_turns(programs, arguments, rounds: int) -> list[float]:
    """Median seconds of each program; in each round they run one after the other."""
    keys = jax.random.split(jax.random.key(0), len(arguments))
    inputs = [example(shape, key) for shape, key in zip(arguments, keys, strict=True)]
    taken = [[] for _ in programs]
    for turn in range(rounds + 1):
        for program, times in zip(programs, taken, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(program(*inputs))
            if turn:  # the first round warms up
                times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in taken]


def compare(losses, full, small, gradients: int, rounds: int) -> dict[str, float]:
    """Ours and the plain loss: bytes at full size, seconds at the smaller one, and both ratios."""
    held = [compiled(f, full, gradients).memory_analysis().temp_size_in_bytes for f in losses]
    seconds = seconds_in_turns([compiled(f, small, gradients) for f in losses], small, rounds)
    return {
        "bytes": held[0],
        "plain_bytes": held[1],
        "memory_ratio": held[0] / held[1],
        "seconds": seconds[0],
        "plain_seconds": seconds[1],
        "time_ratio": seconds[0] / seconds[1],
    }


def main():
    """Compares both losses and prints a line of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--texts", type=int, default=512, help="of 64 tokens")
    parser.add_argument("--words", type=int, default=64_000)
    parser.add_argument("--pairs", type=int, default=8192)
    parser.add_argument("--timed-texts", type=int, default=32)
    parser.add_argument("--timed-pairs", type=int, default=4096)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    width, words = options.width, options.words
    captions = functools.partial(captioning_arguments, length=64, width=width, words=words)
    pairs = functools.partial(contrastive_arguments, width=width)
    result = {
        "captioning": compare(
            (lambda x, kernel, ids: captioning_loss(x, kernel, ids, 0)[0], plain_captioning),
            captions(options.texts),
            captions(options.timed_texts),
            gradients=2,
            rounds=options.rounds,
        ),
        "contrastive": compare(
            (lambda *arrays: softmax_loss(*arrays)[0], plain_contrastive),
            pairs(options.pairs),
            pairs(options.timed_pairs),
            gradients=3,
            rounds=options.rounds,
        ),
    }
    for name, found in result.items():
        print(
            f"{name:<12} {found['bytes'] / 2**20:8,.0f} MiB of {found['plain_bytes'] / 2**20:,.0f} "
            f"({found['memory_ratio']:.3f}); {found['seconds']:.2f} s, plain "
            f"{found['plain_seconds']:.2f} s, ratio {found['time_ratio']:.3f}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
