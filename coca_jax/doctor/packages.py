"""The installed packages: versions, those that are missing, and extras."""

import importlib.metadata
from collections.abc import Iterator

from packaging.requirements import Requirement

from coca_jax.doctor.finding import Finding, off, ok, problem
from coca_jax.versions import versions as results_depend_on

PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
EXTRAS = {
    "tpu": "TPUs",
    "cuda": "NVIDIA GPUs",
    "plan": "coca plan for TPUs",
    "plan-cuda": "coca plan for GPUs",
    "quantization": "train.quantization",
    "search": "coca search --backend faiss",
    "hub": "models at hf-hub:ORG/NAME",
    "serve": "coca serve",
    "onnx": "coca export --format onnx",
    "wandb": "metrics to Weights & Biases",
    "mlflow": "metrics to MLflow",
    "gcs": "paths at gs://",
    "s3": "paths at s3://",
}


def versions() -> Iterator[Finding]:
    """The versions that matter, and whether every package that is needed is there."""
    numbers = results_depend_on() | {name: _version(name) for name in PLUGINS}
    yield ok(
        "versions", ", ".join(f"{name} {number}" for name, number in numbers.items() if number)
    )
    try:
        needed = [r for r in _requirements() if r.marker is None or r.marker.evaluate()]
    except importlib.metadata.PackageNotFoundError:
        yield off(
            "packages",
            "coca_jax is used without being installed, so that nothing is known of what it needs",
            "pip install coca_jax, or pip install --editable . in its folder",
        )
        return
    wrong = [_fault(requirement) for requirement in needed]
    if faults := [fault for fault in wrong if fault]:
        install = " ".join(f'"{r.name}{r.specifier}"' for r in needed if _fault(r))
        yield problem("packages", "; ".join(faults), f"pip install {install}")
    else:
        yield ok("packages", f"all {len(needed)} that coca_jax needs are there")


def extras() -> Iterator[Finding]:
    """Which extras are installed."""
    try:
        requirements = _requirements()
    except importlib.metadata.PackageNotFoundError:
        return
    there = []
    for extra, use in EXTRAS.items():
        needed = [r for r in requirements if _is_of(r, extra)]
        missing = [fault for fault in map(_fault, needed) if fault]
        # `jax[cuda13]` needs a package that only JAX knows the name of.
        if extra in ("cuda", "plan-cuda") and not any(map(_version, PLUGINS[:2])):
            missing.append("there is no CUDA plugin of JAX")
        if extra == "tpu" and not _version("libtpu"):
            missing.append("libtpu is missing")
        if missing:
            fix = f'pip install "coca_jax[{extra}]"'
            yield off(f"extra {extra}", f"{use}: {'; '.join(missing)}", fix)
        elif needed:
            there.append(extra)
    yield ok("extras", ", ".join(there) or "none")


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires("coca_jax") or ()]


def _is_of(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and not marker.evaluate() and marker.evaluate({"extra": extra})


def _version(name: str) -> str:
    """The installed version; empty if there is none."""
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fault(requirement: Requirement) -> str:
    """What is wrong with an installed package; empty if nothing is."""
    version = _version(requirement.name)
    if not version:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"
