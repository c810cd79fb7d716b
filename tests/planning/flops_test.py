import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from coca_jax.models import PRESETS, CoCa, CoCaConfig, PoolerConfig, init_params
from coca_jax.models.presets import open_clip
from coca_jax.planning import forward_flops, training_flops

TINY = PRESETS["tiny"]
OPEN_CLIP = dataclasses.asdict(
    open_clip(
        dataclasses.replace(TINY.image, columns=3),
        TINY.text,
        pooler=PoolerConfig(kind="shared", caption_queries=4, heads=4, query_norm=True),
        embedding=24,
    )
)


def products(jaxpr):
    """FLOPs of every matrix product in a program, scanned ones times their length.

    The same product of the same two arrays counts once: the compiler merges them.
    """
    total, seen = 0, set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            factors = tuple(map(id, equation.invars))
            if factors in seen:
                continue
            seen.add(factors)
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = 2 * equation.outvars[0].aval.size
            for axis in contracted:
                size *= equation.invars[0].aval.shape[axis]
            total += size
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * products(inner)
    return total


@pytest.mark.parametrize(
    "changes",
    [{}, {"captioning": False}, {"contrastive": "none"}, OPEN_CLIP],
    ids=["both", "contrastive_only", "captioning_only", "open_clip"],
)
def test_formula_counts_what_the_program_multiplies(changes):
    config = CoCaConfig.from_dict(dataclasses.asdict(TINY) | changes)
    model, text = CoCa(config), config.text
    params = nn.meta.unbox(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    pixels = jnp.zeros((1, *config.image.pixels, 3))

    def everything(*inputs):
        output = model.apply(*inputs)
        return output, output.logits

    ids = jnp.zeros((1, text.length), jnp.int32)
    program = jax.make_jaxpr(everything)({"params": params}, pixels, ids)
    # The program computes masked attention in full, the rule counts half of it.
    halved = lambda layers, length: layers * 2 * length**2 * text.width  # noqa: E731
    masked = halved(text.unimodal_layers, text.length + (config.contrastive != "none"))
    masked += halved(text.multimodal_layers, text.length) * config.captioning
    assert sum(forward_flops(config).values()) + masked == products(program.jaxpr)
    assert forward_flops(config, 0.5)["image_encoder"] < forward_flops(config)["image_encoder"]
    assert training_flops(config) == 3 * sum(forward_flops(config).values())
