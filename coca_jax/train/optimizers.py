"""Optimizers and learning-rate schedules by name.

An optimizer is a function from the `optimizer` section of the configuration to an Optax
transformation of gradients to updates, before weight decay and learning rate. A schedule is a
function from the section and a number of steps to the learning rate at each step after warm-up.
A user's own file may register more of both.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from coca_jax.registry import Registry

optimizers: Registry[Callable[[Any], optax.GradientTransformation]] = Registry(
    "optimizer", {name: f"{__name__}:{name}" for name in ("adafactor", "adamw", "lion")}
)
schedules: Registry[Callable[[Any, int], optax.Schedule]] = Registry(
    "schedule", {name: f"{__name__}:{name}" for name in ("linear", "cosine", "rsqrt", "constant")}
)


def adafactor(options: Any) -> optax.GradientTransformation:
    """Adafactor as scaled up for ViT (arXiv 2106.04560): no parameter scaling, a momentum.

    The second moment's decay rises as 1 - t^-0.8 (arXiv 1804.04235) up to `b2`.
    """

    def decay(step, power):
        return jnp.minimum(1.0 - jnp.power(step.astype(jnp.float32) + 1, -power), options.b2)

    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8, decay_rate_fn=decay),
        optax.clip_by_block_rms(1.0),
        optax.ema(options.b1, debias=False),
    )


def adamw(options: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""
    return optax.scale_by_adam(options.b1, options.b2, options.epsilon)


def lion(options: Any) -> optax.GradientTransformation:
    """Lion: the sign of a momentum (arXiv 2302.06675)."""
    return optax.scale_by_lion(options.b1, options.b2)


def linear(options: Any, steps: int) -> optax.Schedule:
    """A line from the peak to 0, which the step after the last one would have."""
    return optax.linear_schedule(options.learning_rate, 0.0, steps)


def cosine(options: Any, steps: int) -> optax.Schedule:
    """Half a cosine from the peak to 0, which the step after the last one would have."""
    return optax.cosine_decay_schedule(options.learning_rate, steps)


def rsqrt(options: Any, steps: int) -> optax.Schedule:
    """The inverse square root of the step, warm-up included, from the peak on.

    As for the larger models of arXiv 2106.04560.
    """
    ramp = max(options.warmup_steps, 1)
    return lambda step: options.learning_rate * jnp.sqrt(ramp / (jnp.maximum(step, 0) + ramp))


def constant(options: Any, steps: int) -> optax.Schedule:
    """The peak at every step."""
    return optax.constant_schedule(options.learning_rate)
