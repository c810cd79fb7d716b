"""Search of embeddings with FAISS and exactly: queries per second, recall, memory, build time.

    python benchmarks/search.py --json search.json          # needs pip install coca_jax[search]

Vectors have unit length and lie around random centers, with noise of twice the center's length. The
noise comes from `--latent` random numbers, because embeddings vary in fewer directions than they
have dimensions; with 0 it varies in all, which is hardest. Queries come from the same clusters.
"near" queries are distributed like the vectors. For "far" ones, as texts are to images, all vectors
are moved one way and all queries the other, by a center's length. Each search is a process of its
own, whose file is in the page cache; queries come one by one. "first" is the first query, including
opening the file. Memory includes mapped pages.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from coca_jax.image_search.nearest import SEARCHES

TOP = 10
NOISE, MOVED = 2.0, 1.0  # relative to a center's length of 1
KINDS = ("near", "far")
SMOKE = {"count": 2000, "width": 16, "clusters": 10, "latent": 4, "queries": 10}


def unit(vectors):
    """Vectors of length 1 in the same directions."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(folder, options):
    """Writes the vectors and the queries."""
    rng = np.random.default_rng(0)
    width = options.width
    centers = unit(rng.standard_normal((options.clusters, width), np.float32))
    mixing = unit(rng.standard_normal((width, options.latent), np.float32)).T
    direction = MOVED * unit(rng.standard_normal((1, width), np.float32))

    def draw(count, moved):
        noise = rng.standard_normal((count, options.latent or width), np.float32)
        noise = NOISE * unit(np.tanh(noise @ mixing) if options.latent else noise)
        return unit(centers[rng.integers(len(centers), size=count)] + noise + moved)

    for kind in KINDS:
        moved = direction * (kind == "far")
        with (folder / f"{kind}.f32").open("wb") as file:
            for start in range(0, options.count, 2**16):
                file.write(draw(min(2**16, options.count - start), moved).tobytes())
        np.save(folder / f"{kind}.npy", draw(options.queries, -moved))
        (folder / kind).mkdir()


def stored(folder, kind, width):
    """The vectors, mapped."""
    return np.memmap(folder / f"{kind}.f32", np.float32, "r").reshape(-1, width)


def measure(folder, kind, backend, width):
    """Searches with one backend for one kind of queries, in this process: rows and figures."""
    vectors, queries = stored(folder, kind, width), np.load(folder / f"{kind}.npy")
    begin = time.perf_counter()
    search = SEARCHES[backend](folder / kind, vectors, np.arange(len(vectors)))
    search(queries[0], TOP)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    found = [search(query, TOP)[1].tolist() for query in queries]
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    speed = len(queries) / seconds
    return {"found": found, "first_seconds": first, "queries_per_second": speed, "peak_bytes": peak}


def in_process(folder, kind, backend, width):
    """Runs `measure` in a process of its own."""
    words = ["--measure", str(folder), kind, backend, "--width", str(width)]
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def compare(folder, kind, width):
    """Compares both backends; FAISS's first process builds its index, and the second opens it."""
    ways = {"exact": "exact", "build": "faiss", "faiss": "faiss"}
    results = {name: in_process(folder, kind, backend, width) for name, backend in ways.items()}
    true = [set(rows) for rows in results["exact"]["found"]]
    for result in results.values():
        pairs = zip(true, result.pop("found"), strict=True)
        result["recall_at_10"] = float(np.mean([len(t & set(f)) / TOP for t, f in pairs]))
    results["file_bytes"] = sum(path.stat().st_size for path in (folder / kind).iterdir())
    return results


def show(kind, results):
    """Prints a line for each backend."""
    for backend in ("exact", "faiss"):
        r = results[backend]
        print(
            f"{kind:<6}{backend:<7}{r['first_seconds']:>8.3f}{r['queries_per_second']:>12,.1f}"
            f"{r['recall_at_10']:>11.3f}{r['peak_bytes'] / 2**20:>9,.0f}"
        )
    built = results["build"]
    print(
        f"{kind:<6}built in {built['first_seconds']:.1f} s, {built['peak_bytes'] / 2**20:,.0f} MiB "
        f"in memory, {results['file_bytes'] / 2**20:,.0f} MiB on disk"
    )


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--latent", type=int, default=24)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    if options.measure:
        folder, kind, backend = options.measure
        print(json.dumps(measure(pathlib.Path(folder), kind, backend, options.width)))
        return
    with tempfile.TemporaryDirectory() as name:
        make(pathlib.Path(name), options)
        print(f"{options.count:,} x {options.width}")
        print(f"{'':<13}{'first s':>8}{'queries/s':>12}{'recall@10':>11}{'MiB':>9}")
        results = {}
        for kind in KINDS:
            results[kind] = compare(pathlib.Path(name), kind, options.width)
            show(kind, results[kind])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
