"""Throughput and latency of `coca serve` with 32 clients, against the bare batched model.

    python benchmarks/serve.py --json serve.json
    python benchmarks/serve.py --model runs/shapes

The server is a process of its own; each client sends a form with a JPEG of 256 x 256 pixels, waits
for the answer, and sends the next. The bare model is `LoadedModel` in this process, given the same
images, decoded and resized beforehand, in batches of as many as there are clients. Both take turns;
medians. Without `--model` it is a coca_ViT-B-32 with random weights. At the end the server gets a
SIGTERM while every client waits for an answer: none may be lost.
"""

import argparse
import asyncio
import io
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import jax
import loading
import numpy as np
from PIL import Image

import coca_jax
from coca_jax.data.transforms.images import Resizing, decode, resize_for_evaluation
from coca_jax.models import PRESETS

SMOKE = {"clients": 4, "max_batch": 2, "seconds": 0.5, "repeats": 1}
BOUNDARY = b"benchmark"
OPERATIONS = ("embed", "caption")


def make_images(count):
    """JPEG files of smooth noise, which are as large as photographs of their size."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def request(operation, image):
    """The bytes of a request over HTTP."""
    head = b'--%s\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    body = head % BOUNDARY + image + b"\r\n--%s--\r\n" % BOUNDARY
    lines = (
        f"POST /v1/{operation} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Client:
    """A connection that sends one request after another."""

    def __init__(self, reader, writer):
        """Wraps the connection."""
        self._reader, self._writer = reader, writer

    async def send(self, data):
        """Sends a request and returns the status of its answer."""
        self._writer.write(data)
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
        return int(head.split()[1])


async def connect(port, count):
    """Opens connections."""
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    return [Client(*pair) for pair in pairs]


async def load(port, requests, clients, seconds):
    """Images per second with this many clients, and the latencies of all requests."""
    latencies, end = [], time.perf_counter() + seconds

    async def run(client, number):
        while (begin := time.perf_counter()) < end:
            assert await client.send(requests[number % len(requests)]) == 200
            latencies.append(time.perf_counter() - begin)
            number += 1

    opened = await connect(port, clients)
    begin = time.perf_counter()
    await asyncio.gather(*(run(client, number) for number, client in enumerate(opened)))
    return len(latencies) / (time.perf_counter() - begin), latencies


async def stop_in_flight(process, port, requests, clients):
    """Stops the server while clients wait; returns how many waited, and how many got no answer."""
    for _ in range(100):  # a model that is quick may have answered all before they are counted
        opened = await connect(port, clients)
        waiting = [
            asyncio.create_task(client.send(requests[number % len(requests)]))
            for number, client in enumerate(opened)
        ]
        while pending := sum(not one.done() for one in waiting):
            if figure(port, "coca_requests_in_progress") >= pending:
                process.send_signal(signal.SIGTERM)
                statuses = await asyncio.gather(*waiting, return_exceptions=True)
                return pending, sum(status != 200 for status in statuses)
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    return 0, 0


def figure(port, name):
    """A figure of the server's metrics, summed over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


def bare(model, operation, pixels, seconds):
    """Images per second of the model alone, in batches of all of the images."""
    function = model.caption if operation == "caption" else model.encode_image
    function(pixels)  # compiles
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        function(pixels)
        count += len(pixels)
    return count / (time.perf_counter() - begin)


def measure(model, port, operation, files, options):
    """A row of the table."""
    config = model.config.image
    resizing = Resizing.of(config)
    pixels = np.stack([resize_for_evaluation(decode(f), config.pixels, resizing) for f in files])
    requests = [request(operation, file) for file in files]
    rates, latencies = [], []
    before = [figure(port, f"coca_batch_rows_{name}") for name in ("sum", "count")]
    for _ in range(options.repeats):
        alone = bare(model, operation, pixels, options.seconds)
        served, seconds = asyncio.run(load(port, requests, options.clients, options.seconds))
        rates.append((served, alone, served / alone))
        latencies += seconds
    rows, batches = (
        figure(port, f"coca_batch_rows_{name}") - start
        for name, start in zip(("sum", "count"), before, strict=True)
    )
    served, alone, ratio = (statistics.median(values) for values in zip(*rates, strict=True))
    p50, p95 = np.percentile(latencies, [50, 95]).tolist()
    figures = {"served": served, "bare": alone, "ratio": ratio, "p50": p50, "p95": p95}
    return figures | {"batch": rows / batches}


def start(folder, options):
    """The server's process and its port."""
    command = [sys.executable, "-m", "coca_jax", "serve", "--model", str(folder), "--port", "0"]
    command += ["--max-batch", str(options.max_batch)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the server has ended with {process.wait()}")
    return process, int(re.search(r":(\d+) ", line)[1])


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--max-batch", type=int, default=16, help="of the server")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    with tempfile.TemporaryDirectory() as name:
        folder = options.model
        if folder is None:
            folder = pathlib.Path(name) / "model"
            loading.convert(
                folder.parent, loading.small() if options.smoke else PRESETS[loading.VARIANT]
            )
        process, port = start(folder, options)
        try:
            model, files = coca_jax.load(folder), make_images(options.clients)
            print(
                f"{options.clients} clients, {os.cpu_count()} cores, {jax.devices()[0].device_kind}"
            )
            results = {}
            for operation in OPERATIONS:
                row = results[operation] = measure(model, port, operation, files, options)
                print(
                    f"{operation:<8} {row['served']:.1f} images/s of {row['bare']:.1f} "
                    f"({row['ratio']:.2f}), p50 {1000 * row['p50']:.0f} ms, "
                    f"p95 {1000 * row['p95']:.0f} ms, batches of {row['batch']:.1f}",
                    flush=True,
                )
            requests = [request("caption", file) for file in files]
            results["in_flight"], results["lost"] = asyncio.run(
                stop_in_flight(process, port, requests, options.clients)
            )
            results["exit_code"] = process.wait(600)
            print(
                f"SIGTERM with {results['in_flight']} in flight: {results['lost']} lost, "
                f"exit code {results['exit_code']}"
            )
        finally:
            process.kill()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if results["lost"] or results["exit_code"] or not (results["in_flight"] or options.smoke):
        raise SystemExit("the server did not stop as it should")


if __name__ == "__main__":
    main()
