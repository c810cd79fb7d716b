import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.experimental import pallas as pl
from jax.interpreters import partial_eval as pe

from coca_jax.data.packing import PackingConfig
from coca_jax.models import (
    PRESETS,
    CoCaConfig,
    HeadConfig,
    PoolerConfig,
    init_params,
    make_model,
)
from coca_jax.models.inputs import call_inputs, with_masks
from coca_jax.models.presets import open_clip
from coca_jax.planning import forward_flops, training_flops
from coca_jax.planning.flops import embedding_flops, hardware_flops

TINY = PRESETS["tiny"]
EVERY_SECOND = dataclasses.asdict(TINY.text) | {"cross_attention_every": 2}
OPEN_CLIP = dataclasses.asdict(
    open_clip(
        dataclasses.replace(TINY.image, grid_width=3),
        TINY.text,
        pooler=PoolerConfig(kind="shared", caption_queries=4, num_heads=4, query_norm=True),
        embed_dim=24,
    )
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"captioning": False},
        {"contrastive": "none"},
        OPEN_CLIP,
        {"contrastive": "none", "captioning": False, "head": HeadConfig(5, num_images=3)},
        {"contrastive": "none", "captioning": False, "head": HeadConfig(5, "text", 2)},
        {"contrastive": "none", "head": HeadConfig(5, "text")},
        {"negatives": True, "embed_dim": 24, "matching_block": 4},
        {"captioning": False, "matching_block": 4, "text": EVERY_SECOND},
    ],
    ids=[
        *("both", "contrastive_only", "captioning_only", "open_clip", "clips", "pairs"),
        *("questions", "negatives", "matching"),
    ],
)
def test_formula_counts_what_the_program_multiplies(changes):
    config = CoCaConfig.from_dict(dataclasses.asdict(TINY) | changes)
    model, text = make_model(config), config.text
    params = nn.meta.unbox(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    head = config.head or HeadConfig(0)
    pixels = jnp.zeros((1, *[head.num_images] * (head.num_images > 1), *config.image.pixels, 3))

    def everything(*inputs):
        batch = {"text": ids, "prefix_length": None} | (
            {"negative_text": ids + 1} if config.negatives else {}
        )
        output = model.apply(*inputs, **call_inputs(config, with_masks(config, batch)))
        return output, output.logits

    ids = jnp.zeros((1, text.context_length), jnp.int32)
    program = jax.make_jaxpr(everything)({"params": params}, pixels, ids)
    # The program computes masked attention in full, the rule counts half of it.
    halved = lambda layers, length: layers * 2 * length**2 * text.width  # noqa: E731
    masked = halved(text.unimodal_layers, text.context_length + (config.has_cls))
    masked *= 1 + config.negatives
    masked *= config.multimodal or config.has_cls
    passes = 1 + (2 + config.negatives) * (config.matching_block > 0)
    masked += halved(text.multimodal_layers, text.context_length) * (
        config.multimodal * head.num_images * passes
    )
    # One block, of one pair and padding: the similarities by which hard negatives are drawn.
    masked += 2 * config.matching_block**2 * (config.embed_dim or text.width)
    assert sum(forward_flops(config).values()) + masked == hardware_flops(program)
    assert forward_flops(config, 0.5)["image_encoder"] < forward_flops(config)["image_encoder"]
    assert training_flops(config) == 3 * sum(forward_flops(config).values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"captioning": False},
        OPEN_CLIP,
        {"pooler": dataclasses.asdict(TINY.pooler) | {"kind": "parallel"}},
        {"negatives": True, "embed_dim": 24, "matching_block": 4},
    ],
    ids=["both", "contrastive_only", "open_clip", "parallel", "negatives"],
)
def test_embeddings_are_counted_as_the_program_multiplies_them(changes):
    config = CoCaConfig.from_dict(dataclasses.asdict(TINY) | changes)
    model, text = make_model(config), config.text
    params = nn.meta.unbox(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    pixels = jnp.zeros((1, *config.image.pixels, 3))
    ids = jnp.zeros((1, text.context_length), jnp.int32)

    def embeddings(*inputs):
        output = model.apply(*inputs)
        return output.image_embeddings, output.text_embeddings

    program = jax.make_jaxpr(embeddings)({"params": params}, pixels, ids).jaxpr
    needed, _ = pe.dce_jaxpr(program, [True, True])
    masked = text.unimodal_layers * 2 * (text.context_length + 1) ** 2 * text.width
    assert embedding_flops(config) + masked == hardware_flops(needed)
    trained = training_flops(TINY, teacher=config) - training_flops(TINY)
    assert trained == embedding_flops(config)


def test_packed_rows_are_counted_as_the_program_multiplies_them():
    packing, text = PackingConfig(2, 16), TINY.text
    model = make_model(TINY)
    params = nn.meta.unbox(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    pixels, ids = jnp.zeros((2, *TINY.image.pixels, 3)), jnp.zeros((1, 16), jnp.int32)

    def everything(*inputs):
        output = model.apply(*inputs, segments=ids)
        return output, output.logits

    program = jax.make_jaxpr(everything)({"params": params}, pixels, ids)
    masked = text.unimodal_layers * 18**2 + text.multimodal_layers * 16**2
    counted = 2 * sum(forward_flops(TINY, packing=packing).values())
    assert counted + 2 * masked * text.width == hardware_flops(program)
    no_captions = dataclasses.replace(TINY, captioning=False)
    of_embeddings = sum(forward_flops(no_captions, packing=packing).values())
    assert embedding_flops(no_captions, packing) == of_embeddings


def test_executed_products_count_as_often_as_they_run():
    x, kernels = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    one = 2 * 4 * 8 * 8

    def layers(x, kernels):
        return jax.lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, kernels)[0].sum()

    assert hardware_flops(jax.make_jaxpr(layers)(x, kernels)) == 5 * one
    assert hardware_flops(jax.make_jaxpr(jax.grad(layers, argnums=(0, 1)))(x, kernels)) == 15 * one
    again = jax.checkpoint(lambda x, k: jnp.sin(jnp.sin(x @ k) @ k).sum())
    # Forward 2, again 1 (the last product is not needed), backward 4.
    assert hardware_flops(jax.make_jaxpr(jax.grad(again, argnums=(0, 1)))(x, kernels[0])) >= 7 * one


def test_products_of_arrays_that_are_cast_or_reshaped_alike_count_once():
    def twice(x, kernel):
        products = [x.reshape(8, 4) @ kernel.astype(jnp.float32) for _ in range(2)]
        return *products, x.reshape(16, 2) @ kernel[:2].astype(jnp.float32)

    program = jax.make_jaxpr(twice)(jnp.ones((2, 4, 4)), jnp.ones((4, 6), jnp.bfloat16))
    assert hardware_flops(program) == 2 * 8 * 4 * 6 + 2 * 16 * 2 * 6


def test_executed_products_of_each_device_are_added_up():
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=auto)
    spec = jax.sharding.PartitionSpec("a")
    product = jax.shard_map(
        lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    # Of [8, 3] each of eight devices multiplies its [2, 3] by itself.
    assert hardware_flops(jax.make_jaxpr(product)(jnp.ones((8, 3)))) == 8 * 2 * 2 * 2 * 3


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_counts_logits_again_backward(causal, monkeypatch):
    # JAX traces cuDNN's attention without a GPU if it need not look for one.
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91_200)
    monkeypatch.setattr(fused, "check_compute_capability", lambda least: float(least) <= 9)
    query, keys = (jnp.ones((2, n, 3, 16), jnp.bfloat16) for n in (8, 6))

    def attend(*arrays):
        attended = jax.nn.dot_product_attention(*arrays, is_causal=causal, implementation="cudnn")
        return jnp.sum(attended.astype(jnp.float32))

    matmul = 2 * (2 * 3) * 8 * 6 * 16 // (2 if causal else 1)
    forward = jax.make_jaxpr(attend)(query, keys, keys)
    assert hardware_flops(forward) == 2 * matmul
    both = jax.make_jaxpr(jax.grad(attend, argnums=(0, 1, 2)))(query, keys, keys)
    assert hardware_flops(both) == (2 + 5) * matmul


@pytest.mark.parametrize("stated", [None, 123])
def test_pallas_kernels_count_what_they_state_or_their_grid(stated):
    cost = stated and pl.CostEstimate(flops=stated, transcendentals=0, bytes_accessed=0)

    def kernel(x, kernel, y):
        y[...] = x[...] @ kernel[...]

    call = pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 16), lambda i: (i, 0)), pl.BlockSpec((16, 16))],
        out_specs=pl.BlockSpec((8, 16), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((32, 16), jnp.float32),
        cost_estimate=cost,
    )
    program = jax.make_jaxpr(call)(jnp.ones((32, 16)), jnp.ones((16, 16)))
    assert hardware_flops(program) == (stated or 2 * 32 * 16 * 16)
