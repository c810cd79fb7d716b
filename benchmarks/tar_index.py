"""Speed of indexing WebDataset tars against `tarfile`, and of reading their samples.

    python benchmarks/tar_index.py --json tar_index.json

Each sample is an image of about 45 KB, a JSON and a text. `pax` tars are written as WebDataset's
own writer does, with times in fractions of a second, which take a header more for each member;
`ustar` ones have whole seconds. The same tars are listed by `TarFile.getmembers` and scanned here,
each by one thread, by turns; the table has medians. "Parallel" makes the indices of 16 links to
each of them, as opening a data set does. Then sets of up to 1e8 samples, which are links to one
tar, are opened with warm indices by new processes: seconds to the source and its first record, and
memory after reading 2,000.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coca_jax.data.sources.tar_index import SUFFIX, open_indices, scan
from coca_jax.data.sources.webdataset import webdataset_source
from coca_jax.io import files

LINKS = 16  # to each tar, indexed in parallel
SIZES = (100_000, 1_000_000, 100_000_000)
SMOKE = {"tars": 1, "samples": 50, "kilobytes": 1, "repeats": 1, "sizes": [200]}
OPEN = """
import json, random, sys, time
import psutil
from coca_jax.data.sources.webdataset import webdataset_source
begin = time.perf_counter()
source = webdataset_source(sys.argv[1])
source[len(source) // 2]
seconds = time.perf_counter() - begin
rng = random.Random(0)
for _ in range(2000):
    source[rng.randrange(len(source))]
print(json.dumps([len(source), seconds, psutil.Process().memory_info().rss / 2**20]))
"""


def main() -> None:
    """Prints a table and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tars", type=int, default=4)
    parser.add_argument("--samples", type=int, default=2500, help="in each tar")
    parser.add_argument("--kilobytes", type=int, default=45, help="of an image, on average")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="samples to open")
    parser.add_argument("--folder", help="for the tars; default: a temporary one")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        result = measure(Path(name), options)
    for key, value in result.items():
        print(f"{key:36}{value:>14,.2f}" if isinstance(value, float) else f"{key:36}{value:>14,}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns samples per second, and how they compare."""
    result: dict[str, Any] = {"samples": options.tars * options.samples, "cpus": os.cpu_count()}
    for form, fraction in (("ustar", 0.0), ("pax", 0.25)):
        tars = []
        for i in range(options.tars):
            tars.append(str(folder / f"{form}{i}.tar"))
            write(tars[-1], options.samples, options.kilobytes * 1000, fraction)
        speeds = compare(tars, folder, options.repeats)
        result |= {f"{form}_{key}": value for key, value in speeds.items()}
    result |= read(str(folder / "pax*.tar"), options.repeats)
    for size in options.sizes:
        result |= open_many(folder, size)
    return result


def compare(tars: list[str], folder: Path, repeats: int) -> dict[str, float]:
    """Samples per second of listing and indexing the same tars, by turns."""

    def listing() -> int:
        return sum(list_members(tar) for tar in tars)

    def indexing() -> int:
        return sum(scan(tar, files.stamp(tar)).count for tar in tars)

    links = []
    for i in range(LINKS):
        for tar in tars:
            links.append(tar.replace(".tar", f"_{i}.link"))
            os.symlink(tar, links[-1])

    def parallel() -> int:
        for path in folder.glob(f"*{SUFFIX}"):
            path.unlink()
        return sum(index.count for index in open_indices(links))

    runs = [[speed(run) for run in (listing, indexing, parallel)] for _ in range(repeats)]
    theirs, ours, all_cores = np.median(runs, axis=0)
    ratio, parallel_ratio = np.median([(b / a, c / a) for a, b, c in runs], axis=0)
    for link in links:
        os.unlink(link)
    return {
        "tarfile_samples_per_second": float(theirs),
        "samples_per_second": float(ours),
        "parallel_samples_per_second": float(all_cores),
        "ratio": float(ratio),
        "parallel_ratio": float(parallel_ratio),
    }


def list_members(tar: str) -> int:
    """The number of samples, by `tarfile`."""
    with tarfile.open(tar) as file:
        return len(file.getmembers()) // 3


def speed(run: Callable[[], int]) -> float:
    """How many a second a function does, which returns how many it did."""
    begin = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - begin)


def read(pattern: str, repeats: int) -> dict[str, float]:
    """Records per second in random order, by one thread."""
    source = webdataset_source(pattern)
    order = np.random.default_rng(0).permutation(len(source)).tolist()

    def run() -> int:
        for i in order:
            source[i]
        return len(order)

    return {"random_records_per_second": statistics.median(speed(run) for _ in range(repeats))}


def open_many(folder: Path, size: int) -> dict[str, float]:
    """Opens links to one tar and its index, `size` samples in all, in a new process."""
    tar = folder / "pax0.tar"
    [index] = open_indices([str(tar)])
    links = folder / f"links{size}"
    links.mkdir()
    for i in range(-(-size // index.count)):
        (links / f"{i:06}.tar").symlink_to(tar)
        (links / f"{i:06}.tar{SUFFIX}").symlink_to(index.file)
    command = [sys.executable, "-c", OPEN, f"{links}/*.tar"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, seconds, megabytes = json.loads(done.stdout)
    assert count >= size
    return {f"open_{size:.0e}_seconds": seconds, f"open_{size:.0e}_megabytes": megabytes}


def write(tar: str, samples: int, image_bytes: int, fraction: float) -> None:
    """Writes a tar in the order of WebDataset's writer, with noise for images."""
    rng = np.random.default_rng(0)
    noise = rng.bytes(2 * image_bytes)
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as file:
        for i in range(samples):
            size = int(rng.uniform(0.5, 1.5) * image_bytes)
            caption = "a photo of something or other, in a few words or some more "
            fields = {
                "caption": caption,
                "url": "https://example.com/" + "x" * 60,
                "key": f"{i:09}",
            }
            fields |= {"status": "success", "width": 500, "height": 400, "exif": "{}" * 200}
            body = json.dumps(fields | {"sha256": "0" * 64}).encode()
            parts = {"jpg": noise[:size], "json": body, "txt": caption.encode()}
            for extension, part in parts.items():
                member = tarfile.TarInfo(f"{i:09}.{extension}")
                member.size, member.mtime = len(part), 1_700_000_000 + i + fraction
                if not fraction:
                    member.mtime = int(member.mtime)
                file.addfile(member, io.BytesIO(part))


if __name__ == "__main__":
    main()
