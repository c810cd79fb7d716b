"""Every test runs on eight CPU devices; what several tests need is made once."""

import os

# Programs of tests run once: compiling them fast matters more than running them fast.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
# No persistent compilation cache: programs of several CPU devices that are loaded from it start
# their collectives in different orders, and hang (jaxlib 0.10.2).
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import pytest

from coca_jax.data.builders import shapes
from coca_jax.data.prepare import prepare

COUNTS = {"train": 60, "test": 20, "test_novel": 10}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The folder of TFDS data sets with a small `shapes` and its tokenizer."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.Shapes, "counts", COUNTS)
        prepare("shapes", folder)
    return folder
