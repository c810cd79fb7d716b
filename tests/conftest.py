"""Every test runs on eight CPU devices; what several tests need is made once."""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import types
from importlib.metadata import version

# Programs of tests run once: compiling them fast matters more than running them fast. XLA's older
# emitters of fusions need two thirds of the time; a jaxlib ends at flags that it does not know.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)
# No persistent compilation cache but in `compiled_once`: programs of several CPU devices that are
# loaded from it start their collectives in different orders, and hang (jaxlib 0.10.2).
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

from coca_jax.data_tools.prepare import prepare
from coca_jax.datasets import shapes

# Where arrays of different ranks meet, the code says which axes are new: some people set this.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Folders and files whose tests train, evaluate or plan as the commands do.
WHOLE_RUNS = {
    "cli",
    "cli_test.py",
    "configs_test.py",
    "extending_test.py",
    "planning",
    "sweep",
    "train",
}
COUNTS = {"train": 60, "test": 20, "test_novel": 10}


def pytest_ignore_collect(collection_path, config):
    """Leaves out the fuzzers, which are all slow, unless slow tests are asked for."""
    # Importing Hypothesis takes two seconds in each process.
    fuzzers = ("fuzz", "api_fuzz_test.py")
    return (config.option.markexpr == "not slow" and collection_path.name in fuzzers) or None


@pytest.fixture(scope="module", autouse=True)
def shapes_checked(request):
    """Checks annotated shapes and types as tests run, where arrays are what is tested.

    Whole runs call the same functions, and a tenth of their time would be checks.
    """
    folder = request.path.relative_to(pathlib.Path(__file__).parent).parts[0]
    jaxtyping.config.update("jaxtyping_disable", folder in WHOLE_RUNS)


@pytest.fixture(autouse=True)
def meteor(request, monkeypatch):
    """METEOR starts a Java machine for ten seconds each time: only where `meteor` is marked.

    Fixtures of modules, and other processes, still have it.
    """
    if not request.node.get_closest_marker("meteor"):
        hidden = types.SimpleNamespace(which=lambda name: None)
        monkeypatch.setattr("coca_jax.evaluate.metrics.meteor.shutil", hidden)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The folder that all workers of pytest have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def making(folder):
    """Whether the caller should fill a shared folder: the first worker does, others wait."""
    with open(f"{folder}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = folder.with_name(f"{folder.name}.done")
        yield not done.exists()
        done.touch()  # not after an exception


@pytest.fixture(scope="session")
def prepared(shared):
    """The folder of TFDS data sets with a small `shapes` and its tokenizer."""
    folder = shared / "tfds"
    with making(folder) as needed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.Shapes, "counts", COUNTS)
        if needed:
            prepare("shapes", str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def small_run(shared, prepared, compiled_once, programs_once):
    """The workdir of `small_run.make_config`, trained to its end: copy it to change it."""
    from small_run import make_config

    from coca_jax.train import loop

    workdir = shared / "small/run"
    workdir.parent.mkdir(exist_ok=True)
    with making(workdir) as needed:
        if needed:
            loop.train(make_config(prepared), workdir)
    return workdir


@pytest.fixture(scope="module")
def compiled_once(shared):
    """Programs of modules whose runs have one device each are compiled once, by any process.

    All workers of pytest share them, and so do the processes that tests start. `uncached` is for
    what has more devices.
    """
    folder = str(shared / "compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        _configure_cache("jax_compilation_cache_dir", folder)
        yield
    _configure_cache("jax_compilation_cache_dir", None)


@functools.cache
def _programs_once():
    """Functions to stand for those that make a program, compile it and make its first state."""
    from coca_jax.config import to_json
    from coca_jax.planning import parameter_counts
    from coca_jax.train.program import TrainProgram, make_program
    from coca_jax.train.state import StateFactory

    programs, compiled, states = {}, {}, {}
    compile_step, create = TrainProgram.compile, StateFactory.create
    sections = ("seed", "model", "loss", "head", "lora", "optimizer", "sharding")
    of_loop = {"epochs", "evaluate_every", "log_every"}  # which no program depends on

    def make_once(config, partitioner):
        tree = to_json(config)
        described = {name: tree[name] for name in sections}
        # `length_test` makes sure, by NumPy, that these schedules do not depend on the length.
        left_out = {"steps"} if config.optimizer.schedule in ("rsqrt", "constant") else set()
        left_out |= of_loop
        described["train"] = {k: v for k, v in tree["train"].items() if k not in left_out}
        key = json.dumps([described, dict(partitioner.mesh.shape)])
        if key not in programs:
            programs[key] = make_program(config, partitioner)
        return programs[key]

    def compile_once(program, state, batch, options=()):
        key = id(program), str(jax.tree.map(lambda x: x.shape, batch)), options
        if key not in compiled:
            compiled[key] = compile_step(program, state, batch, options)
        return compiled[key]

    def create_once(factory, seed):
        if (factory, seed) not in states:
            states[factory, seed] = jax.device_get(create(factory, seed))
        return jax.device_put(states[factory, seed], factory.shardings)

    return make_once, compile_once, create_once, functools.cache(parameter_counts)


@pytest.fixture(scope="module")
def programs_once():
    """Runs of one configuration and mesh share their traced and compiled program."""
    from coca_jax.train import experiment, summary
    from coca_jax.train.program import TrainProgram
    from coca_jax.train.state import StateFactory

    make_once, compile_once, create_once, count_once = _programs_once()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "make_program", make_once)
        patch.setattr(TrainProgram, "compile", compile_once)
        patch.setattr(StateFactory, "create", create_once)
        patch.setattr(summary, "parameter_counts", count_once)
        yield


@pytest.fixture
def uncached():
    """Compiles without the cache in this process, within a module that is `compiled_once`."""
    _configure_cache("jax_enable_compilation_cache", False)
    yield
    _configure_cache("jax_enable_compilation_cache", True)


def _configure_cache(name, value):
    jax.config.update(name, value)
    compilation_cache.reset_cache()  # or what was opened before stays
