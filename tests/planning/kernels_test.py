"""Kernels of small programs, whose bytes and FLOPs are counted by hand."""

import pytest

from coca_jax.planning.chips import GPUS
from coca_jax.planning.collectives import collectives
from coca_jax.planning.hlo import Program
from coca_jax.planning.kernels import kernels
from coca_jax.planning.roofline import kernel_table
from coca_jax.planning.topologies import Topology
from coca_jax.planning.traffic import hbm_bytes

# Excerpts of what XLA compiles for an H100: a scan of twelve layers that cuts each kernel out of a
# stack, multiplies, attends and keeps its result in a stack; then attention backward and an
# all-reduce between GPUs.
TEXT = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%gemm_fusion_dot.1_computation (p0: bf16[512,64], p1: bf16[12,64,64], p2: s32[]) -> bf16[512,64] {
  %p0 = bf16[512,64]{1,0} parameter(0)
  %p1 = bf16[12,64,64]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %stack = bf16[12,64,64]{2,1,0} bitcast(%p1)
  %slice = bf16[1,64,64]{2,1,0} dynamic-slice(%stack, %p2, %zero, %zero), dynamic_slice_sizes={1,64,64}
  %kernel = bf16[64,64]{1,0} bitcast(%slice)
  ROOT %dot.1 = bf16[512,64]{1,0} dot(%p0, %kernel), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%fused_dynamic_update_slice (p0.1: bf16[12,4,128,64], p1.1: s32[], p2.1: bf16[4,128,4,16]) -> bf16[12,4,128,64] {
  %p0.1 = bf16[12,4,128,64]{3,2,1,0} parameter(0)
  %p2.1 = bf16[4,128,4,16]{3,2,1,0} parameter(2)
  %row = bf16[1,4,128,64]{3,2,1,0} bitcast(%p2.1)
  %p1.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %written = bf16[12,4,128,64]{3,2,1,0} dynamic-update-slice(%p0.1, %row, %p1.1, %zero.1, %zero.1, /*index=5*/%zero.1)
}

%body (state: (s32[], bf16[512,64], bf16[12,64,64], bf16[12,4,128,64])) -> (s32[], bf16[512,64], bf16[12,64,64], bf16[12,4,128,64]) {
  %state = (s32[], bf16[512,64]{1,0}, bf16[12,64,64]{2,1,0}, bf16[12,4,128,64]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = bf16[512,64]{1,0} get-tuple-element(%state), index=1
  %kernels = bf16[12,64,64]{2,1,0} get-tuple-element(%state), index=2
  %kept = bf16[12,4,128,64]{3,2,1,0} get-tuple-element(%state), index=3
  %gemm_fusion_dot.1 = bf16[512,64]{1,0} fusion(%x, %kernels, %i), kind=kCustom, calls=%gemm_fusion_dot.1_computation, metadata={op_name="jit(train_step)/jvp(CoCa)/image_encoder/transformer/transformer._scan/while/body/eval_jaxpr/layers/self_attention/key/dot_general" stack_frame_id=93}, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %heads = bf16[4,128,4,16]{3,2,1,0} bitcast(%gemm_fusion_dot.1)
  %attention.1 = (bf16[4,4,128,16]{3,1,2,0}, f32[4,4,128]{2,1,0}, u8[4096]{0}) custom-call(%heads, %heads, %heads), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(train_step)/jvp(CoCa)/image_encoder/transformer/transformer._scan/while/body/eval_jaxpr/layers/self_attention/dot_product_attention_fwd"}, backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "4", "128", "128"]}, "mask_type": "NO_MASK"}}
  %attended = bf16[4,4,128,16]{3,1,2,0} get-tuple-element(%attention.1), index=0
  %fusion-start = ((bf16[12,4,128,64]{3,2,1,0}, s32[], bf16[4,128,4,16]{3,2,1,0}), bf16[12,4,128,64]{3,2,1,0}, u32[]) fusion-start(%kept, %i, %heads), kind=kLoop, calls=%fused_dynamic_update_slice, metadata={op_name="jit(train_step)/jvp(CoCa)/image_encoder/transformer/transformer._scan/while/body/jit(dynamic_update_index_in_dim)/dynamic_update_slice"}
  %fusion-done = bf16[12,4,128,64]{3,2,1,0} fusion-done(%fusion-start)
  %next = bf16[512,64]{1,0} bitcast(%attended)
  ROOT %result = (s32[], bf16[512,64]{1,0}, bf16[12,64,64]{2,1,0}, bf16[12,4,128,64]{3,2,1,0}) tuple(%i, %next, %kernels, %fusion-done)
}

%condition (state.1: (s32[], bf16[512,64], bf16[12,64,64], bf16[12,4,128,64])) -> pred[] {
  %state.1 = (s32[], bf16[512,64]{1,0}, bf16[12,64,64]{2,1,0}, bf16[12,4,128,64]{3,2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (start: (s32[], bf16[512,64], bf16[12,64,64], bf16[12,4,128,64]), q: bf16[4,128,4,16], k: bf16[4,32,4,16], stats: f32[4,4,128], gradient: f32[1000]) -> f32[1000] {
  %start = (s32[], bf16[512,64]{1,0}, bf16[12,64,64]{2,1,0}, bf16[12,4,128,64]{3,2,1,0}) parameter(0)
  %q = bf16[4,128,4,16]{3,2,1,0} parameter(1)
  %k = bf16[4,32,4,16]{3,2,1,0} parameter(2)
  %stats = f32[4,4,128]{2,1,0} parameter(3)
  %gradient = f32[1000]{0} parameter(4)
  %loop = (s32[], bf16[512,64]{1,0}, bf16[12,64,64]{2,1,0}, bf16[12,4,128,64]{3,2,1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"},"known_init_step":{"init":"0","step":"1"}}
  %all-reduce-start = ((f32[1000]{0}), f32[1000]{0}) all-reduce-start(%gradient), channel_id=1, replica_groups=mesh['data'=2,'fsdp'=2] {'data'}, to_apply=%add
  %attention.2 = (bf16[4,4,128,16]{3,1,2,0}, bf16[4,4,32,16]{3,1,2,0}, bf16[4,4,32,16]{3,1,2,0}, u8[8192]{0}) custom-call(%q, %k, %k, %stats, %q, /*index=5*/%q), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="jit(train_step)/transpose(jvp(CoCa))/CoCa._output/decoder.unimodal_features/unimodal/layers/self_attention/dot_product_attention_bwd"}, backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"dimensions": ["4", "4", "128", "32"]}}}
  ROOT %all-reduce-done = f32[1000]{0} all-reduce-done(%all-reduce-start)
}
"""  # noqa: E501
ROW = 4 * 128 * 64 * 2  # bytes of the layers' input
SLICE = 64 * 64 * 2


@pytest.fixture(scope="module")
def steps():
    return [kernel for kernel in kernels(Program(TEXT)) if not kernel.waits]


def test_each_kernel_counts_as_often_as_the_loop_runs(steps):
    assert [k.kind for k in steps] == ["matmul", "attention", "copy", "collective", "attention"]
    assert [k.times for k in steps] == [12, 12, 12, 1, 1]


def test_flops_of_fused_matmuls_and_of_attention(steps):
    product = 2 * 512 * 64 * 64
    forward = 2 * 2 * 4 * 4 * 128 * 128 * 16
    backward = 5 * 2 * 4 * 4 * 128 * 32 * 16
    assert [k.flops for k in steps] == [product, forward, 0, 0, backward]


def test_bytes_of_slices_of_asynchronous_and_of_library_kernels(steps):
    statistics = 4 * 4 * 128 * 4
    keys = 4 * 32 * 64 * 2
    expected = [
        ROW + SLICE + ROW,
        ROW + ROW + statistics,  # query, key and value are one array
        ROW + ROW,
        1000 * 4 * 2,
        ROW + keys + statistics + ROW + 2 * keys,
    ]
    # Of places in stacks, four bytes are read. The workspaces of cuDNN do not count.
    assert [k.bytes - size for k, size in zip(steps, expected, strict=True)] == [4, 0, 4, 0, 0]
    assert hbm_bytes(Program(TEXT)) == sum(k.times * k.bytes for k in steps)


def test_parts_of_the_model(steps):
    assert [k.part for k in steps] == [
        "image encoder / self-attention / forward",
        "image encoder / self-attention / forward",
        "image encoder / stacks of the scan / forward",
        "the rest",
        "text decoder, unimodal / self-attention / backward",
    ]


def test_an_asynchronous_collective_counts_once_and_is_waited_for():
    copied, start, end = (k for k in kernels(Program(TEXT)) if k.collectives or k.waits)
    assert copied.waits == "fusion-start"  # no collective
    assert start.starts == end.waits == "all-reduce-start"
    assert collectives(Program(TEXT)) == [("all-reduce", 4000, (0, 2), 1)]


# What XLA makes for a TPU of the logits of eight heads of eight images, and a Pallas kernel; a
# matmul by cuBLAS.
OTHERS = """HloModule others, is_scheduled=true

ENTRY %main (q: bf16[8,16,8,64], x: bf16[128,512], w: bf16[256,512]) -> f32[8,8,16,16] {
  %q = bf16[8,16,8,64]{3,1,2,0:T(8,128)(2,1)S(1)} parameter(0)
  %x = bf16[128,512]{1,0} parameter(1)
  %w = bf16[256,512]{1,0} parameter(2)
  %pallas_call = bf16[128,512]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="jit(layers)/shard_map/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"123","transcendentals":"1","bytes_accessed":"456"},"serialization_format":"1"}}
  %flash = bf16[128,512]{1,0} custom-call(%x, %x), custom_call_target="tpu_custom_call", metadata={op_name="jit(layers)/splash_mha_fwd/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv"}}
  %allocated = bf16[128,512]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %cublas = (bf16[128,256]{1,0}, s8[1024]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"]}}}
  ROOT %logits = f32[8,8,16,16]{2,3,1,0:T(8,128)S(1)} convolution(%q, %q), window={size=8x8 stride=7x7 lhs_dilate=8x8}, dim_labels=0b1f_0o1i->01bf
}
"""  # noqa: E501


def test_kernels_of_tpus_and_libraries():
    rows = 128 * 512 * 2
    expected = [
        ("custom call", 456, 123),  # as the kernel states
        ("attention", 2 * rows, 0),
        ("matmul", rows + 2 * rows + 128 * 256 * 2, 2 * 128 * 256 * 512),
        ("matmul", 0, 2 * 8 * 8 * 16 * 16 * 64),  # in caches; the places between heads do not count
    ]
    assert [(k.kind, k.bytes, k.flops) for k in kernels(Program(OTHERS))] == expected


SENT = """HloModule sent, is_scheduled=true

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %token = token[] after-all()
  %send = (f32[8]{0}, u32[]{:S(2)}, token[]) send(%x, %token), channel_id=1
  %send-done = token[] send-done(%send), channel_id=1
  ROOT %y = f32[8]{0} copy(%x)
}
"""


def test_sends_between_slices_are_waited_for():
    assert [(k.kind, k.starts, k.waits) for k in kernels(Program(SENT))] == [
        ("collective", "send", ""),
        ("wait", "", "send"),
        ("copy", "", ""),
    ]


FUSED = """HloModule fused, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%reduced (p0: f32[1000]) -> f32[1000] {
  %p0 = f32[1000]{0} parameter(0)
  ROOT %all-reduce = f32[1000]{0} all-reduce(%p0), channel_id=1, replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %fusion-start = ((f32[1000]{0}), f32[1000]{0}, u32[]) fusion-start(%x), kind=kCustom, calls=%reduced
  ROOT %fusion-done = f32[1000]{0} fusion-done(%fusion-start)
}
"""  # noqa: E501


def test_a_collective_inside_of_an_asynchronous_fusion_is_waited_for():
    program = Program(FUSED)
    start, end = kernels(program)
    assert start.collectives == (("all-reduce", 4000, (0, 1), 1),)
    assert start.starts == end.waits == "fusion-start"
    cluster = Topology("h100:1x2", GPUS["h100"], [None] * 2)
    (row,) = kernel_table(kernels(program), cluster, cluster.devices)
    assert row["seconds"] == pytest.approx(4000 / GPUS["h100"].link)


@pytest.mark.parametrize(
    ("dim", "window", "expected"),
    [
        ("28x28", "size=3x3 pad=1_1x1_1", 2 * 4 * 8 * (3 * 28 - 2) ** 2),
        ("26x26", "size=3x3", 2 * 4 * 8 * (3 * 26) ** 2),
        ("7x7", "size=4x4 stride=4x4", 2 * 4 * 8 * 28**2),
        ("24x24", "size=3x3 rhs_dilate=2x2", 2 * 4 * 8 * (3 * 24) ** 2),
    ],
)
def test_convolutions_do_not_count_padding(dim, window, expected):
    size, edge = window[5], dim.partition("x")[0]
    text = f"""HloModule convolution

ENTRY %main (x: f32[1,28,28,4], k: f32[{size},{size},4,8]) -> f32[1,{edge},{edge},8] {{
  %x = f32[1,28,28,4]{{3,2,1,0}} parameter(0)
  %k = f32[{size},{size},4,8]{{3,2,1,0}} parameter(1)
  ROOT %y = f32[1,{edge},{edge},8]{{3,2,1,0}} convolution(%x, %k), window={{{window}}}, dim_labels=b01f_01io->b01f
}}
"""  # noqa: E501
    assert [k.flops for k in kernels(Program(text))] == [expected]
