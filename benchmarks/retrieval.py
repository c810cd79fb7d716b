"""Retrieval metrics of 100,000 images and 100,000 texts: seconds, and the most memory held.

    python benchmarks/retrieval.py --json retrieval.json

Both ways, of random embeddings of 512 numbers. The peer is NumPy's product of the same blocks, with
nothing done to the scores.
"""

import argparse
import json
import pathlib
import resource
import time

import numpy as np

from coca_jax.evaluate.metrics.recall import SCORES_IN_MEMORY, recalls

SMOKE = {"count": 500, "width": 16}


def peak_bytes():
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    """Ranks both ways, then multiplies the same blocks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    rng = np.random.default_rng(0)
    images, texts = (
        rng.standard_normal((options.count, options.width), np.float32) for _ in range(2)
    )
    texts += images / 4  # so that some are found
    for x in (images, texts):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    pairs = np.repeat(np.arange(options.count)[:, None], 2, axis=1)
    begin = time.perf_counter()
    found = recalls(images, texts, pairs) | {"back": recalls(texts, images, pairs)["r1"]}
    seconds, peak = time.perf_counter() - begin, peak_bytes()
    begin = time.perf_counter()
    rows = max(1, SCORES_IN_MEMORY // options.count)
    for queries, items in ((images, texts), (texts, images)):
        for start in range(0, options.count, rows):
            queries[start : start + rows] @ items.T
    product = time.perf_counter() - begin
    print(
        f"{options.count:,} x {options.count:,}, both ways: {seconds:.0f} s, of which matmuls "
        f"alone {product:.0f} ({seconds / product:.2f}); {peak / 2**20:,.0f} MiB in all; "
        f"R@1 {found['r1']:.3f}, {found['back']:.3f}"
    )
    if options.json:
        result = {"seconds": seconds, "product": product, "peak_bytes": peak}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
