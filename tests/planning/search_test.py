"""Which settings a search tries; `aot_test.py` runs whole searches."""

import pytest

from coca_jax.config import default_config
from coca_jax.planning import search
from coca_jax.planning.chips import GPUS
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
