"""Estimates of programs small enough to count by hand."""

import math
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from coca_jax.data.packing import PackingConfig
from coca_jax.distributed import make_mesh
from coca_jax.models import PRESETS, HeadConfig
from coca_jax.models.fused_attention import fused_attention
from coca_jax.planning.estimate import Batch, Split, collectives, hbm_bytes, split_of, temp_bytes

UNPACKED, PACKED = PackingConfig(), PackingConfig(texts_per_row=4, row_length=20)
NONE = {"captioning": False, "contrastive": "none"}  # of the losses of pretraining
ROWS = 16
WHOLE = Split(frozenset({ROWS}), 1, {})
IMAGE, TEXT, BOTH = ("image", 1), ("unimodal", 1), "multimodal"
X, KERNELS = jnp.ones((ROWS, 8)), jnp.ones((5, 8, 8))
ONE = ROWS * 8 * 4  # bytes of X


def layers(x, kernels):
    return jax.lax.scan(lambda x, kernel: (x @ kernel, x), x, kernels)


def test_memory_in_the_programs_order():
    def chain(x):
        y = x @ x.T  # [16, 16]
        z = y @ y
        return jnp.sum(z)

    program = jax.make_jaxpr(chain)(X)
    assert temp_bytes(program, WHOLE) == 2 * ROWS * ROWS * 4  # y and z, and then z and a number
    halved = temp_bytes(program, WHOLE._replace(shards=2))
    assert halved == ROWS * ROWS * 4


def test_memory_of_a_loop_is_its_results_and_the_worst_of_its_body():
    program = jax.make_jaxpr(layers)(X, KERNELS)
    # The last state, five that are kept, and a new one in the body.
    assert temp_bytes(program, WHOLE) == (1 + 5 + 1) * ONE


def test_gradients_are_split_as_their_parameters():
    program = jax.make_jaxpr(lambda k: 2 * k)(KERNELS)
    assert temp_bytes(program, WHOLE._replace(params={(5, 8, 8): 4})) == KERNELS.nbytes // 4


def test_hbm_bytes_of_a_kernel_are_its_arrays():
    x = jnp.zeros((2, 16, 4, 8), jnp.float32)
    program = jax.make_jaxpr(fused_attention)(x, x, x)
    assert hbm_bytes(program, WHOLE) == 4 * x.nbytes  # and no logits


def test_hbm_bytes_of_matmuls_count_as_often_as_they_run():
    program = jax.make_jaxpr(layers)(X, KERNELS)
    assert hbm_bytes(program, WHOLE) == 5 * (2 * ONE + 8 * 8 * 4)
    assert hbm_bytes(program, WHOLE._replace(shards=4)) == 5 * (2 * ONE // 4 + 8 * 8 * 4)


def params(mesh, *leaves):
    return [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, *spec in leaves
    ]


@pytest.mark.parametrize("grad_accum_steps", [1, 4])
def test_collectives_of_parameters(grad_accum_steps):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    leaves = params(mesh, ((8, 6), "fsdp", "tensor"), ((10,), None))
    model = PRESETS["tiny"]
    found = collectives(leaves, model, mesh, Batch(64, grad_accum_steps))
    passes = 2 if grad_accum_steps == 1 else 12
    kernel, bias = 8 * 6 // 2 * 2, 10 * 2
    rows = 64 // grad_accum_steps // 4
    expected = [
        ("all-gather", kernel, (0, 2), passes),
        ("reduce-scatter", kernel, (0, 2), grad_accum_steps),
        ("all-reduce", kernel // 2, (0, 4), 1),
        ("all-reduce", bias, (0, 2, 4, 6), 1),
    ]
    image, text = model.image, model.text
    sizes = {
        rows * image.tokens * image.width * 2: 2 * image.num_layers,
        rows * text.context_length * text.width * 2: 2 * text.unimodal_layers
        + 3 * text.multimodal_layers,
    }
    expected += [("all-reduce", size, (0, 1), times * passes) for size, times in sizes.items()]
    assert found == expected


def test_frozen_parameters_are_gathered_alone():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 1}, jax.devices()[:4])
    frozen = params(mesh, ((8, 6), "fsdp", None), ((10,), None))
    found = collectives([], PRESETS["tiny"], mesh, Batch(64), frozen)
    assert found == [("all-gather", 8 * 6 * 2, (0, 1), 2)]


@pytest.mark.parametrize(
    ("changes", "expected", "passes", "packing"),
    [
        ({"captioning": False}, [IMAGE, TEXT], 12, UNPACKED),
        ({**NONE, "head": HeadConfig(5, "text", 2)}, [("image", 2), TEXT, (BOTH, 2)], 8, UNPACKED),
        ({**NONE, "head": HeadConfig(5, num_images=3)}, [("image", 3)], 8, UNPACKED),
        ({}, [IMAGE, TEXT, (BOTH, 1)], 12, PACKED),
        ({"matching_block": 4}, [IMAGE, TEXT, (BOTH, 1), (BOTH, 2)], 12, UNPACKED),
        (
            {"matching_block": 4, "negatives": True},
            [IMAGE, TEXT, TEXT, (BOTH, 1), (BOTH, 3)],
            12,
            UNPACKED,
        ),
    ],
    ids=["contrastive", "pairs", "clips", "packed", "matching", "wrong captions"],
)
def test_collectives_of_activations(changes, expected, passes, packing):
    """Rows of an example in each tower; four micro-batches, twice each or, to contrast, thrice."""
    model = replace(PRESETS["tiny"], **changes)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 8})
    found = Counter()
    for collective in collectives([], model, mesh, Batch(64, 4, packing)):
        found[collective.size] += collective.times
    image, text = model.image, model.text
    row = {"image": image.tokens * image.width, "unimodal": text.context_length * text.width}
    if packing is PACKED:
        row["unimodal"] = 20 * text.width / 4
    row["multimodal"] = row["unimodal"]
    times = {"image": 2 * image.num_layers, "unimodal": 2 * text.unimodal_layers}
    times["multimodal"] = 3 * text.multimodal_layers
    wanted = Counter()
    for tower, rows in expected:  # of 16 examples, in bfloat16
        wanted[16 * rows * row[tower] * 2] += passes * times[tower]
    assert found == wanted


def test_how_arrays_are_split():
    mesh = make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    tiny, leaves = PRESETS["tiny"], params(mesh, ((8, 6), "fsdp", None), ((7,), None))
    split = split_of(leaves, tiny, Batch(64, 2), 8)

    def parts(*shape):
        aval = jax.ShapeDtypeStruct(shape, jnp.float32)
        return math.prod(shape) * 4 // split.size(aval)

    assert parts(8, 6) == 4 and parts(7) == 1
    assert parts(64, 5) == parts(12, 32, 5) == parts(2, 1, 32, 5) == 8
    assert parts(5, 5, 5, 64) == 1 and parts(128, 5) == 1
    split = split_of([], replace(tiny, head=HeadConfig(5, "text", 2)), Batch(64, 2), 8)
    assert parts(128, 5) == parts(32, 2, 5) == 8
    split = split_of([], tiny, Batch(64, 2, PACKED), 8)
    assert parts(16, 5) == parts(8, 5) == parts(32, 5) == 8 and parts(4, 5) == 1
    split = split_of([], replace(tiny, matching_block=4, negatives=True), Batch(64, 2), 8)
    assert parts(192, 5) == parts(96, 5) == parts(8, 4, 5) == 8 and parts(8, 5) == parts(6, 4) == 1
