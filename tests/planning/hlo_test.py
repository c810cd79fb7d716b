"""The bytes that programs move, counted by hand for small programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from coca_jax.planning.collectives import collectives, first_group
from coca_jax.planning.hlo import Program
from coca_jax.planning.traffic import hbm_bytes

# A loop of 5 that cuts its layer out of a stack, multiplies, and writes into a buffer; then an
# exchange inside of a fusion. S(1) is a cache.
TEXT = """HloModule made_up, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%cut (p0: f32[5,8,8], p1: s32[], p2: f32[4,8]) -> f32[4,8] {
  %p0 = f32[5,8,8]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice.1 = f32[1,8,8]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %kernel = f32[8,8]{1,0:T(8,128)} bitcast(%slice.1)
  %p2 = f32[4,8]{1,0:T(8,128)} parameter(2)
  ROOT %product = f32[4,8]{1,0:T(8,128)} convolution(%p2, %kernel), dim_labels=bf_io->bf
}

%write (p0.1: f32[5,4,8], p1.1: f32[4,8], p2.1: s32[]) -> f32[5,4,8] {
  %p0.1 = f32[5,4,8]{2,1,0:T(8,128)} parameter(0)
  %p1.1 = f32[4,8]{1,0:T(8,128)} parameter(1)
  %row = f32[1,4,8]{2,1,0:T(8,128)} bitcast(%p1.1)
  %p2.1 = s32[]{:T(128)} parameter(2)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %written = f32[5,4,8]{2,1,0:T(8,128)} dynamic-update-slice(%p0.1, %row, %p2.1, %zero.1, %zero.1)
}

%all-reduce-scatter.1 (input: bf16[16,4]) -> bf16[4,4] {
  %input = bf16[16,4]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.7 = bf16[16,4]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  ROOT %own = bf16[4,4]{1,0:T(8,128)(2,1)} slice(%all-reduce.7), slice={[0:4], [0:4]}
}

%body (state: (s32[], f32[4,8], f32[5,8,8], f32[5,4,8])) -> (s32[], f32[4,8], f32[5,8,8], f32[5,4,8]) {
  %state = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, f32[5,8,8]{2,1,0:T(8,128)}, /*index=3*/f32[5,4,8]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(1)} get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0:T(8,128)S(1)} get-tuple-element(%state), index=1
  %stack = f32[5,8,8]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %buffer = f32[5,4,8]{2,1,0:T(8,128)} get-tuple-element(%state), index=3
  %next = f32[4,8]{1,0:T(8,128)S(1)} fusion(%stack, %i, %x), kind=kOutput, calls=%cut
  %kept = f32[5,4,8]{2,1,0:T(8,128)} fusion(%buffer, %next, %i), kind=kLoop, calls=%write
  %gathered = f32[16,8]{1,0:T(8,128)S(1)} all-gather(%next), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  ROOT %result = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, f32[5,8,8]{2,1,0:T(8,128)}, f32[5,4,8]{2,1,0:T(8,128)}) tuple(%i, %next, %stack, %kept)
}

%condition (state.1: (s32[], f32[4,8], f32[5,8,8], f32[5,4,8])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, f32[5,8,8]{2,1,0:T(8,128)}, f32[5,4,8]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %five = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %five), direction=LT
}

ENTRY %main (start: (s32[], f32[4,8], f32[5,8,8], f32[5,4,8]), other: bf16[16,4]) -> bf16[4,4] {
  %start = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, f32[5,8,8]{2,1,0:T(8,128)}, f32[5,4,8]{2,1,0:T(8,128)}) parameter(0)
  %loop = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)S(1)}, f32[5,8,8]{2,1,0:T(8,128)}, f32[5,4,8]{2,1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %other = bf16[16,4]{1,0:T(8,128)(2,1)} parameter(1)
  %copied = (bf16[16,4]{1,0:T(8,128)(2,1)S(1)}, bf16[16,4]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%other)
  %there = bf16[16,4]{1,0:T(8,128)(2,1)S(1)} copy-done(%copied)
  ROOT %own.1 = bf16[4,4]{1,0:T(8,128)(2,1)S(1)} fusion(%there), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_loops_slices_and_caches():
    kernel, rows, copied = 8 * 8 * 4, 4 * 8 * 4, 16 * 4 * 2
    assert hbm_bytes(Program(TEXT)) == 5 * (kernel + rows) + copied


def test_collectives_of_loops_and_fusions():
    gather, scatter = collectives(Program(TEXT))
    assert gather == ("all-gather", 16 * 8 * 4, (0, 1, 2, 3), 5)
    assert scatter == ("reduce-scatter", 16 * 4 * 2, (0, 1, 2, 3), 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{3,1},{2,0}}, x", (3, 1)),
        ("replica_groups={}, x", ()),
        ("source_target_pairs={{0,1},{3,0},{1,2}}, x", (0, 1, 3, 0, 1, 2)),
        ("replica_groups=[4,2]<=[8], x", (0, 1)),
        ("replica_groups=[2,4]<=[4,2]T(1,0), x", tuple(np.arange(8).reshape(4, 2).T[0])),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x", tuple(range(8))),
        (
            "replica_groups=mesh['a'=8,'b'=1,'c'=256], device_ids=([256,8]T(1,0)) {'a'}, x",
            tuple(np.arange(2048).reshape(256, 8).T.reshape(8, 256)[:, 0]),
        ),
        (
            "replica_groups=mesh['a'=8,'b'=256], device_ids=([256,8]T(1,0)) {'b'}, x",
            tuple(np.arange(2048).reshape(256, 8).T.reshape(8, 256)[0]),
        ),
    ],
)
def test_groups_in_each_way_of_writing_them(text, expected):
    assert first_group(text) == expected


def test_a_loop_that_does_not_say_how_often_it_runs_is_refused():
    with pytest.raises(ValueError, match="condition"):
        hbm_bytes(Program(TEXT.replace("constant(5)", "parameter(1)")))


def test_a_program_that_the_compiler_made():
    """Five layers, each of whose kernels is gathered from all eight devices."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())

    def layers(x, kernels):
        def layer(x, kernel):
            return jnp.tanh(x @ jax.lax.with_sharding_constraint(kernel, whole)), None

        return jax.lax.scan(layer, x, kernels)[0]

    shapes = [
        jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())),
        jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=split),
    ]
    program = Program(jax.jit(layers).lower(*shapes).compile().as_text())
    gathers = [c for c in collectives(program) if c.kind == "all-gather"]
    assert sum(c.times * c.size for c in gathers) == 5 * 64 * 64 * 4
    assert {len(c.group) for c in gathers} == {8}
    assert hbm_bytes(program) > 5 * 64 * 64 * 4
