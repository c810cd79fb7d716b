"""Speed of the input pipeline against bare OpenCV on the same files and threads.

    python benchmarks/input_pipeline.py --threads 2 --json input_pipeline.json

The whole stream reads records of a TFDS data set, or of WebDataset tars, decodes, crops at random,
flips, tokenizes and makes batches of 64 images of 224 or 288 pixels; bare OpenCV only decodes the
same bytes from memory and resizes them; `--photo` sets the size of the JPEGs. Both run by turns;
the table has the medians. The aim is as many images per second as bare OpenCV. The ratio of the CPU
times suffers less from other programs than that of the speeds.
"""

import argparse
import io
import itertools
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from coca_jax.config import default_config
from coca_jax.data.from_config import make_train_stream
from coca_jax.data.pipeline import Batch
from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data.tokenizers.sentence_piece import train_sentencepiece

PHOTOS = 64
SHARDS = 4
RECORDS = 4096  # each photo many times: to shuffle much fewer is slower than to shuffle millions
JPEG_QUALITY = 86  # about 45 KB for 400 x 500 pixels
BATCH_SIZE = 64
TEXT_LENGTH = 64
WORDS = ["a", "the", "of", "on", "with", "two", "old", "young", "man", "dog", "boat", "street"]
SMOKE = {"sizes": [32], "images": 128, "repeats": 1, "records": 64, "threads": 1}


def main() -> None:
    """Prints a table and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", type=int, nargs="+", default=(224, 288), help="pixels")
    parser.add_argument("--photo", type=int, nargs=2, default=(400, 500), help="height and width")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--images", type=int, default=2048, help="in each run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", help="file to write the result to")
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_data(folder, arguments.records, tuple(arguments.photo))
        print(
            f"{'format':<12}{'size':>5}{'bare/s':>9}{'stream/s':>10}{'ratio':>8}{'CPU ratio':>11}"
        )
        for size, form in itertools.product(arguments.sizes, ("tfds", "webdataset")):
            data = data_config(folder, form, arguments.threads)
            result = measure(data, files, size, arguments.images, arguments.repeats)
            results.append({"format": form, "size": size, "threads": arguments.threads} | result)
            print(
                f"{form:<12}{size:>5}{result['bare_images_per_second']:>9,.0f}"
                f"{result['stream_images_per_second']:>10,.0f}{result['ratio']:>8.3f}"
                f"{result['cpu_ratio']:>11.3f}",
                flush=True,
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


def write_data(folder: str, count: int, shape: tuple[int, int]) -> list[bytes]:
    """Writes the data set in both formats, and a tokenizer; returns the image files."""
    TexturedPhotos(count, shape, data_dir=folder).download_and_prepare()
    source = tfds_source("textured_photos", "train", folder)
    records = [source[i] for i in range(len(source))]
    for shard in range(SHARDS):
        with tarfile.open(f"{folder}/{shard:05}.tar", "w") as tar:
            for index in range(shard, len(records), SHARDS):
                add(tar, f"{index:09}.jpg", records[index]["image"])
                add(tar, f"{index:09}.txt", records[index]["captions"][0].encode())
    captions = [record["captions"][0] for record in records]
    Path(folder, "tokenizer.model").write_bytes(train_sentencepiece(captions, 400))
    return [record["image"] for record in records]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def measure(
    data: ConfigDict, files: list[bytes], size: int, count: int, repeats: int
) -> dict[str, Any]:
    """Runs both by turns; returns images per second and how they compare."""
    threads = data.threads
    batches = make_train_stream(
        data, image_size=(size, size), text_length=TEXT_LENGTH, batch_size=BATCH_SIZE, seed=0
    ).batches()
    bare, whole = [], []
    for _ in range(repeats):
        bare.append(bare_cost(files, size, threads, count))
        whole.append(stream_cost(batches, threads, count))
    batches.close()
    (bare_wall, bare_cpu), (wall, cpu) = np.median(bare, axis=0), np.median(whole, axis=0)
    ratio, cpu_ratio = np.median(np.divide(bare, whole), axis=0)
    return {
        "bare_images_per_second": 1 / bare_wall,
        "stream_images_per_second": 1 / wall,
        "ratio": float(ratio),
        "bare_cpu_us_per_image": 1e6 * bare_cpu,
        "stream_cpu_us_per_image": 1e6 * cpu,
        "cpu_ratio": float(cpu_ratio),
    }


def bare_cost(files: list[bytes], size: int, threads: int, count: int) -> tuple[float, float]:
    """The cost of an image with OpenCV alone: seconds of wall clock and of CPU time."""
    cv2.setNumThreads(0)

    def load(data: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)

    def load_batch(start: int) -> None:
        for i in range(start, start + BATCH_SIZE):
            load(files[i % len(files)])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(load_batch, range(0, count, BATCH_SIZE)))

    return cost(run, count)


def stream_cost(batches: Iterator[Batch], threads: int, count: int) -> tuple[float, float]:
    """The cost of an image in the stream, without the images that it has read ahead."""

    def take(number: int) -> None:
        for _ in range(number):
            next(batches)  # and forget, as training does

    take(2 * threads)
    return cost(lambda: take(count // BATCH_SIZE), count)


def cost(run: Callable[[], None], count: int) -> tuple[float, float]:
    """Seconds of wall clock and of CPU that each of `count` images takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def data_config(folder: str, form: str, threads: int) -> ConfigDict:
    """The `data` part of a training configuration."""
    data = default_config().data
    data.update({"dir": folder, "threads": threads})
    data.tokenizer.path = f"{folder}/tokenizer.model"
    data.train.update({"format": form, "name": "textured_photos", "min_crop_area": 0.5})
    data.train.flip = True
    if form == "webdataset":
        data.train.path = f"{folder}/{{00000..{SHARDS - 1:05}}}.tar"
    return data


class TexturedPhotos(tfds.core.GeneratorBasedBuilder):
    """Smooth noise at several scales: JPEG files of the size and cost of small photographs."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, count: int, shape: tuple[int, int], **kwargs: Any):
        self._count, self._shape = count, shape
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        rng = np.random.default_rng(0)
        photos = [photo(rng, self._shape) for _ in range(min(PHOTOS, self._count))]
        for index in range(self._count):
            captions = [" ".join(rng.choice(WORDS, rng.integers(6, 16))) for _ in range(5)]
            yield index, {"image": io.BytesIO(photos[index % len(photos)]), "captions": captions}


def photo(rng: np.random.Generator, shape: tuple[int, int]) -> bytes:
    """A JPEG file of noise whose amplitude halves with its scale, as in natural images."""
    height, width = shape
    image = np.full((height, width, 3), 128, np.float32)
    for scale in (1, 2, 4, 8, 16, 32, 64):
        coarse = (-(-height // scale), -(-width // scale), 3)
        noise = rng.standard_normal(coarse, np.float32) * 3 * scale**0.65
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


if __name__ == "__main__":
    main()
