"""Every test runs on eight CPU devices; what several tests need is made once in each process."""

import os
import types
from importlib.metadata import version

# Programs of tests run once: compiling them fast matters more than running them fast. XLA's older
# emitters of fusions need two thirds of the time; a jaxlib ends at flags that it does not know.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)
# No persistent compilation cache: programs of several CPU devices that are loaded from it start
# their collectives in different orders, and hang (jaxlib 0.10.2).
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import pytest

from coca_jax.data.builders import shapes
from coca_jax.data.prepare import prepare

COUNTS = {"train": 60, "test": 20, "test_novel": 10}


@pytest.fixture(autouse=True)
def meteor(request, monkeypatch):
    """METEOR starts a Java machine for ten seconds each time: only where `meteor` is marked.

    Fixtures of modules, and other processes, still have it.
    """
    if not request.node.get_closest_marker("meteor"):
        hidden = types.SimpleNamespace(which=lambda name: None)
        monkeypatch.setattr("coca_jax.evaluate.captioning.shutil", hidden)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The folder of TFDS data sets with a small `shapes` and its tokenizer."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.Shapes, "counts", COUNTS)
        prepare("shapes", folder)
    return folder
