"""Which settings a search tries; `aot_test.py` runs whole searches."""

import jax
import pytest

from coca_jax.config import default_config, load_config
from coca_jax.planning import search
from coca_jax.planning.chips import GENERATIONS, GPUS
from coca_jax.planning.cuda import IncompletePlugin
from coca_jax.planning.plan import format_plan, format_search
from coca_jax.planning.topologies import Topology

TOPOLOGY = Topology("h100:1x8", GPUS["h100"], [object()] * 8)


@pytest.mark.parametrize(
    ("mesh", "fsdp", "tensor"),
    [({"fsdp": -1, "tensor": 2}, 4, 2), ({"fsdp": 2, "tensor": -1}, 2, 4)],
)
def test_an_axis_that_takes_what_is_left_is_tried_by_its_size(mesh, fsdp, tensor):
    config = default_config()
    config.mesh.update({"data": 1} | mesh)
    tried = [*search.choices(config, TOPOLOGY)]
    assert min(choice.fsdp for choice in tried) == min(choice.tensor for choice in tried) == 1
    smaller = [*search._smaller(config, TOPOLOGY)]
    assert smaller[0] == search.Choice(fsdp, tensor, "full", 1)


@pytest.mark.parametrize(
    ("topology", "sizes"),
    [
        (TOPOLOGY, {1, 4, 8}),
        (Topology("h100:2x6", GPUS["h100"], [object()] * 12, 2), {1, 6}),
        (Topology("v4:4x8x4", GENERATIONS["v4"], [object()] * 128), {1, 4, 8, 16, 64, 128}),
    ],
)
def test_all_devices_of_a_slice_or_machine_are_tried_in_fsdp(topology, sizes):
    config = default_config()
    config.mesh.update({"data": -1, "fsdp": 1, "tensor": 1})
    assert {choice.fsdp for choice in search.choices(config, topology)} == sizes
    assert max(choice.fsdp for choice in search._smaller(config, topology)) == max(sizes)


def test_a_length_in_epochs_is_no_number_of_days():
    config = load_config("shapes:smoke")
    config.train.epochs = 2.0
    topology = Topology("h100:1x1", GPUS["h100"], jax.devices()[:1], missing="no compiler")
    plan = search.plan_run(config, topology)
    assert plan["days"] is plan["chip_hours"] is None
    assert "depends on the data; set config.train.steps" in format_plan(plan)


def fake_plan(config, topology, compiled):
    """A plan whose predicted time falls with `fsdp`, and whose roofline's time rises with it."""
    fsdp, remat = config.mesh.fsdp, search.REMAT.index(config.model.remat)
    return {
        "predicted_step_seconds": 10.0 / fsdp + remat if compiled else None,
        "step_seconds": 100.0 + fsdp + remat,
        "step_seconds_without_overlap": 200.0,
        "bytes_per_chip": {"peak": 1, "limit": 2},
    }


def test_gpus_are_ranked_by_the_time_that_is_printed(monkeypatch):
    monkeypatch.setattr(search, "plan_run", fake_plan)
    monkeypatch.setattr(search, "COMPILED", 4)
    monkeypatch.setattr(search, "TENSOR", (1,))
    monkeypatch.setattr(search, "REMAT", search.REMAT[:2])
    lines = []
    plans = search.search(default_config(), TOPOLOGY, lines.append)
    assert [name[:13] for name in plans] == ["fsdp=4 tensor"] * 2 + ["fsdp=1 tensor"] * 2
    printed = [float(line.split()[0]) for line in format_search(plans).splitlines()[1:5]]
    assert printed == [2.5, 3.5, 10, 11]
    assert [float(line.split()[-2]) for line in lines[-4:]] == [10, 11, 2.5, 3.5]


def test_a_plugin_without_cudnn_ends_a_search_by_its_name(monkeypatch):
    def trace(*_):
        raise RuntimeError("cuDNN is not detected.")

    def plan_run(config, topology, compiled):
        return real(config, topology, compiled) if compiled else fake_plan(config, topology, False)

    monkeypatch.setattr(search, "full_mesh", lambda *_: None)
    for name in ("compile_ahead", "estimate_ahead"):
        monkeypatch.setattr(search, name, trace)
    with pytest.raises(IncompletePlugin, match="finds no cuDNN"):
        search.search(default_config(), TOPOLOGY, print)
    # If only compiling fails, what was estimated did fit.
    real = search.plan_run
    monkeypatch.setattr(search, "plan_run", plan_run)
    with pytest.raises(IncompletePlugin, match="finds no cuDNN"):
        search.search(default_config(), TOPOLOGY, print)
