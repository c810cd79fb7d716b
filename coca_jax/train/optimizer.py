"""Optimizers, schedules, and tables from parameter-name patterns to what is done with them.

A table is a sequence of (regular expression, value) rows. A parameter's name is its path, as in
`decoder/unimodal/layers/mlp/up/kernel`; the first row that matches from its beginning to its end
decides.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from coca_jax.errors import UserError

Table = Sequence[tuple[str, float]]


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the named decay.

    Args:
      config: `learning_rate` (the peak), `warmup_steps`, `schedule`: linear and cosine reach 0 at
        the last step, rsqrt falls as 1 / sqrt(step), constant stays.
      steps: length of the run.

    Raises:
      UserError: the schedule's name is not known.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    ramp, rest = max(warmup, 1), max(steps - warmup, 1)
    decays = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "rsqrt": lambda step: peak * jnp.sqrt(ramp / (jnp.maximum(step, 0) + ramp)),
        "constant": optax.constant_schedule(peak),
    }
    decay = _choose("optimizer.schedule", config.schedule, decays)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, ramp), decay], [warmup])


def make_optimizer(
    config: ConfigDict, steps: int, params: Any
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The configured optimizer for parameters of this structure, and its learning rate.

    Gradients are clipped by their global norm over the parameters that are trained; weight decay
    is decoupled (arXiv 1711.05101) and scaled by the learning rate.

    Args:
      config: the `optimizer` section.
      steps: length of the run, for the schedule.
      params: arrays or their shapes.

    Raises:
      UserError: an unknown name, or a table that does not fit the parameters; all at once.
    """
    names = parameter_names(params)
    problems: list[str] = []
    rates = read_table("optimizer.learning_rates", config.learning_rates, names, problems)
    decays = read_table("optimizer.weight_decays", config.weight_decays, names, problems)
    if problems:
        raise UserError("\n".join(problems))
    schedule = make_schedule(config, steps)
    frozen = any(rate == 0 for rate in jax.tree.leaves(rates))
    labels = jax.tree.map(lambda rate: "trained" if rate else "frozen", rates)
    if config.layer_decay != 1:
        rates = jax.tree.map(lambda r, f: r * f, rates, layer_factors(params, config.layer_decay))
    decay = jax.tree.map(lambda share: share * config.weight_decay, decays)
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        _choose("optimizer.name", config.name, PRECONDITIONERS)(config),
        _add_scaled(decay) if config.weight_decay else optax.identity(),
        _scale_by_tree(rates),
        optax.scale_by_learning_rate(schedule),
    )
    if not frozen:
        return trained, schedule
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels), schedule


def trained_parameters(params: Any, learning_rates: Table) -> Any:
    """A tree like `params`: whether the table lets each parameter learn."""
    rates = read_table("", learning_rates, parameter_names(params), [])
    return jax.tree.map(bool, rates)


def layer_factors(params: Any, decay: float) -> Any:
    """Factors of the learning rate that fall towards the pixels, as in arXiv 2106.08254, section 2.

    Of the image encoder's layers the last has `decay`, each one below it `decay` times as much as
    the one above, and what is below the first likewise; everything else has 1.

    Args:
      params: arrays or their shapes; layers are stacked.
      decay: at most 1.

    Returns:
      A tree like `params` of numbers, and of arrays [layers, 1, ...] for stacked layers.
    """
    layers = params["image_encoder"]["transformer"]["layers"]
    count = jax.tree.leaves(layers)[0].shape[0]

    def factor(name: str, leaf: Any) -> Any:
        if name.startswith("image_encoder/transformer/layers/"):
            each = decay ** np.arange(count, 0, -1, dtype=np.float32)
            return each.reshape(-1, *[1] * (leaf.ndim - 1))
        below = name.startswith("image_encoder/") and not name.startswith("image_encoder/norm/")
        return decay ** (count + 1) if below else 1.0

    return jax.tree.map(factor, parameter_names(params), params)


def parameter_names(params: Any) -> Any:
    """A tree like `params` with each leaf's path as its name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def read_table(key: str, table: Table, names: Any, problems: list[str]) -> Any:
    """The value of each parameter by the table's first matching row.

    Appends to `problems` each pattern that is no regular expression or matches nothing, and each
    parameter that no row covers.
    """
    rows = []
    for pattern, value in table:
        try:
            rows.append((re.compile(pattern), value))
        except re.error as error:
            problems.append(f"{key}: {pattern!r} is not a regular expression: {error}")
    every = jax.tree.leaves(names)
    for pattern, _ in rows:
        if not any(pattern.fullmatch(name) for name in every):
            problems.append(f"{key}: {pattern.pattern!r} matches none of {', '.join(every)}")
    values = {name: next((v for p, v in rows if p.fullmatch(name)), None) for name in every}
    bare = [name for name, value in values.items() if value is None]
    if bare:
        problems.append(f"{key}: no row covers {', '.join(bare)}; add a last row ('.*', ...)")
    return jax.tree.map(values.get, names)


def _adafactor(config: ConfigDict) -> optax.GradientTransformation:
    """Adafactor as scaled up for ViT (arXiv 2106.04560): no parameter scaling, a momentum.

    The second moment's decay rises as 1 - t^-0.8 (arXiv 1804.04235) up to `b2`.
    """

    def decay(step, power):
        return jnp.minimum(1.0 - jnp.power(step.astype(jnp.float32) + 1, -power), config.b2)

    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8, decay_rate_fn=decay),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.b1, debias=False),
    )


PRECONDITIONERS = {
    "adafactor": _adafactor,
    "adamw": lambda c: optax.scale_by_adam(c.b1, c.b2, c.epsilon),
    "lion": lambda c: optax.scale_by_lion(c.b1, c.b2),
}


def _add_scaled(factors: Any) -> optax.GradientTransformation:
    """Adds factor * parameter to each update."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p, f: u + f * p, updates, params, _like(updates, factors)
        )
    )


def _scale_by_tree(factors: Any) -> optax.GradientTransformation:
    """Multiplies each update by its own factor."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, _like(updates, factors))
    )


def _like(updates: Any, factors: Any) -> Any:
    """The factors with the same leaves masked as in `updates` (the frozen ones)."""
    return jax.tree.map(
        lambda u, f: u if isinstance(u, optax.MaskedNode) else f,
        updates,
        factors,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )


def _choose(key: str, name: str, choices: dict) -> Any:
    if name not in choices:
        raise UserError(f"{key} is {name!r}; it can be {', '.join(choices)}")
    return choices[name]
