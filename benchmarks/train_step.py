"""The train step alone: seconds, examples a second, MFU and memory; against OpenCLIP's.

    python benchmarks/train_step.py                             # a small model on a CPU
    python benchmarks/train_step.py --models base large 2b      # on an accelerator
    python benchmarks/train_step.py --models open_clip_vit_l_14 --open-clip coca_ViT-L-14

For each model the batch is doubled from `--batch` on until it no longer fits (or is `--most`), and
the figures are those of the fastest one; every `--remat`, `--attention`, `--quantization` and
`--scan-unroll` is tried with each other. Data are random and stay on the device. Every measurement
has a process of its own, so that none finds another's memory. MFU counts the FLOPs that
`coca params` prints, not what is computed again, against the best of a few large matmuls in the
same type.

With `--open-clip` (packages as in benchmarks/captioning.py) the same is measured of OpenCLIP's
model: its losses and AdamW; on a GPU in bfloat16 under autocast, compiled, with fused attention; on
a CPU as it is, in float32.

`--profile DIR` writes, for each of ours, the compiled program and the time of each of its kernels
in one step: hold them against `coca plan --kernels`.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLOPS = "flops_per_example"
SMOKE = {"models": ["tiny"], "batch": 8, "most": 8, "steps": 1}
SHOWN = ("remat", "attention", "quantization", "scan_unroll")


def seconds_a_step(step, wait, steps):
    """Median of a few runs of one step each, after two that warm up."""
    taken = []
    for turn in range(steps + 2):
        begin = time.perf_counter()
        wait(step())
        if turn > 1:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def measure_ours(case):
    """One train step of ours, with one batch."""
    import jax
    import numpy as np

    from coca_jax.accelerators import prepare_environment
    from coca_jax.config import default_config
    from coca_jax.distributed import Partitioner, make_mesh
    from coca_jax.models import preset
    from coca_jax.planning import training_flops
    from coca_jax.planning.aot import abstract_batch
    from coca_jax.train.program import make_program
    from coca_jax.validation import validate

    prepare_environment()
    config = default_config()
    config.model.update(preset(case["model"]))
    config.model.update({"remat": case["remat"], "attention": case["attention"]})
    if case["scan_unroll"]:
        config.model.scan_unroll = case["scan_unroll"]
    config.train.update({"batch_size": case["batch"], "quantization": case["quantization"]})
    config.optimizer.name = case["optimizer"]
    validate(config, len(jax.devices()))
    partitioner = Partitioner(make_mesh(config.mesh), config.sharding.rules)
    program = make_program(config, partitioner)
    rng = np.random.default_rng(0)
    batch = partitioner.put_batch(
        {
            name: rng.integers(1, 200, x.shape).astype(x.dtype)
            for name, x in abstract_batch(config, program.model, partitioner).items()
        }
    )
    state = program.factory.create(0)
    begin = time.perf_counter()
    compiled = program.compile(state, batch)
    compile_seconds = time.perf_counter() - begin

    def run():
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    seconds = seconds_a_step(run, jax.block_until_ready, case["steps"])
    if case["profile"]:
        words = [case["model"], case["batch"], *(case[k] for k in SHOWN if case[k])]
        profile(run, compiled, pathlib.Path(case["profile"]) / "_".join(map(str, words)))
    memory, stats = compiled.memory_analysis(), jax.devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "compiled_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "peak_bytes": stats.get("peak_bytes_in_use"),
        FLOPS: training_flops(program.model.config),
        "device": jax.devices()[0].device_kind,
    }


def profile(run, compiled, folder, steps=3):
    """Writes the program as `program.txt`, and `kernels.json`: milliseconds a step by kernel."""
    import jax

    with jax.profiler.trace(folder):
        for _ in range(steps):
            jax.block_until_ready(run())
    (folder / "program.txt").write_text(compiled.as_text())
    trace = max(folder.glob("plugins/profile/*/*.xplane.pb"))  # named by its time
    kernels = {}
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for event in (event for line in plane.lines for event in line.events):
            name = dict(event.stats).get("hlo_op")
            if name:
                kernels[name] = kernels.get(name, 0) + event.duration_ns / 1e6 / steps
    slowest = sorted(kernels.items(), key=lambda kernel: -kernel[1])
    (folder / "kernels.json").write_text(json.dumps(dict(slowest), indent=1))


def measure_open_clip(case):
    """One train step of OpenCLIP's model, with one batch."""
    sys.path.append(str(ROOT / "tests/fixtures/open_clip"))
    from environment import open_clip, torch

    torch.set_num_threads(os.cpu_count())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = open_clip.create_model(case["model"]).to(device)
    loss = open_clip.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")
    forward = torch.compile(model) if device == "cuda" else model
    size = model.visual.image_size
    size = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(case["batch"], 3, *size, device=device)
    texts = torch.randint(1, 49_000, (case["batch"], 76), device=device)

    def run():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            out = forward(images, texts)
            scale = out.pop("logit_scale")
            out = {k: v for k, v in out.items() if k != "logit_bias"}
            total = sum(loss(**out, logit_scale=scale))
        total.backward()
        optimizer.step()

    def wait(_):
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = seconds_a_step(run, wait, case["steps"])
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"seconds": seconds, "peak_bytes": peak}


def measure_peak(case):
    """FLOP/s of the best of a few large matmuls, in the type that steps use here."""
    import jax
    import jax.numpy as jnp

    from coca_jax.accelerators import default

    sizes = (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384)
    best = 0.0
    for size in sizes:
        x = jnp.ones((size, size), default("dtype", jax.devices()[0]))
        product = jax.jit(jnp.matmul)
        seconds = seconds_a_step(lambda p=product, x=x: p(x, x), jax.block_until_ready, 10)
        best = max(best, 2 * size**3 / seconds)
    return {"flops": best * len(jax.devices()) if jax.default_backend() != "cpu" else best}


MEASURES = {"ours": measure_ours, "open_clip": measure_open_clip, "peak": measure_peak}


def in_a_process(kind, case=None):
    """The result of a measurement in a process of its own; None if its batch does not fit."""
    words = [sys.executable, __file__, "--measure", kind, "--case", json.dumps(case)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        text = done.stderr
        if "RESOURCE_EXHAUSTED" in text or "OutOfMemory" in text or done.returncode == -9:
            return None
        raise SystemExit(f"{kind} {case} failed:\n{text[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def largest(kind, case, options):
    """Measurements of growing batches, until one does not fit."""
    rows, batch = [], options.batch
    while batch <= options.most:
        tried = case | {"batch": batch, "steps": options.steps}
        result = in_a_process(kind, tried)
        if result is None:
            break
        speeds = {"examples_per_second": batch / result["seconds"]}
        rows.append(tried | {"kind": kind} | speeds | result)
        show(rows[-1])
        batch *= 2
    if not rows:
        print(f"{kind} {case}: not even a batch of {batch} fits")
    return rows


def show(row):
    """Prints a row."""
    held = row["peak_bytes"] or row.get("compiled_bytes")
    words = [
        f"{row['kind']:<9} {row['model']:<20} batch {row['batch']:>5}",
        f"{row['seconds'] * 1e3:>9.1f} ms",
        f"{row['examples_per_second']:>9.1f} examples/s",
        f"compiled in {row['compile_seconds']:.0f} s" if "compile_seconds" in row else "",
        "memory unknown" if held is None else f"{held / 2**30:>6.2f} GiB",
        " ".join(f"{k}={row[k]}" for k in SHOWN if row.get(k)),
    ]
    print("  ".join(words), flush=True)


def summary(rows, peak):
    """The fastest row and the largest batch of each model, with its MFU."""
    best_rows = {}
    for row in rows:
        name = f"{row['kind']} {row['model']}"
        best = max((r for r in rows if f"{r['kind']} {r['model']}" == name), key=speed)
        mfu = best[FLOPS] * speed(best) / peak if FLOPS in best else None
        batches = [r["batch"] for r in rows if f"{r['kind']} {r['model']}" == name]
        best_rows[name] = {"mfu": mfu, "largest_batch": max(batches)} | best
    return best_rows


def speed(row):
    """Examples a second."""
    return row["examples_per_second"]


def main():
    """Measures all that is asked for and prints what is best."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", default=["mini"], help="presets")
    parser.add_argument("--open-clip", nargs="*", default=[], metavar="MODEL")
    parser.add_argument("--remat", nargs="+", default=["none"])
    parser.add_argument("--attention", nargs="+", default=["auto"])
    parser.add_argument("--quantization", nargs="+", default=[""])
    parser.add_argument(
        "--scan-unroll", nargs="+", type=int, default=[0], help="0: as the device has it"
    )
    parser.add_argument("--profile", default="", metavar="DIR")
    parser.add_argument("--optimizer", default="adafactor")
    parser.add_argument("--batch", type=int, default=8, help="the first")
    parser.add_argument("--most", type=int, default=8, help="the largest")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options.case)))
        return
    peak = in_a_process("peak")["flops"]
    print(f"matmuls: {peak / 1e12:.3g} TFLOP/s, measured")
    rows = []
    tried = {
        "model": options.models,
        "remat": options.remat,
        "attention": options.attention,
        "quantization": options.quantization,
        "scan_unroll": options.scan_unroll,
    }
    others = {"optimizer": options.optimizer, "profile": options.profile}
    for values in itertools.product(*tried.values()):
        rows += largest("ours", dict(zip(tried, values, strict=True)) | others, options)
    for model in options.open_clip:
        rows += largest("open_clip", {"model": model}, options)
    best = summary(rows, peak)
    for name, row in best.items():
        mfu = "" if row["mfu"] is None else f", MFU {row['mfu']:.1%}"
        print(f"{name}: {speed(row):.1f} examples/s{mfu}, largest batch {row['largest_batch']}")
    if options.json:
        options.json.write_text(json.dumps({"peak": peak, "best": best, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
