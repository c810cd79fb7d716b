"""The optimizer of a run, with tables from patterns of parameter names to factors.

A table is a sequence of (regular expression, value) rows. A parameter's name is its path, as in
`decoder/unimodal/layers/mlp/up/kernel`; the first row that matches from its beginning to its end
decides.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from coca_jax.errors import UserError
from coca_jax.models import lora
from coca_jax.train.optimizers import optimizers, schedules

Table = Sequence[tuple[str, float]]


def make_schedule(options: Any, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the named schedule.

    Args:
      options: the `optimizer` section; `learning_rate` is the peak.
      steps: length of the run.

    Raises:
      UserError: the schedule's name is not known.
    """
    peak, warmup = options.learning_rate, options.warmup_steps
    ramp = optax.linear_schedule(0.0, peak, max(warmup, 1))
    decay = schedules[options.schedule](options, max(steps - warmup, 1))
    return optax.join_schedules([ramp, decay], [warmup])


def make_optimizer(
    options: Any, steps: int, params: Any
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The configured optimizer for parameters of this structure, and its learning rate.

    Gradients are clipped by their global norm over the parameters that are trained; weight decay
    is decoupled (arXiv 1711.05101) and scaled by the learning rate.

    Args:
      options: the `optimizer` section.
      steps: length of the run, for the schedule.
      params: arrays or their shapes.

    Raises:
      UserError: an unknown name, or a table that does not fit the parameters; all at once.
    """
    rates, decays = _read_tables(options, params)
    schedule = make_schedule(options, steps)
    labels = jax.tree.map(lambda rate: "trained" if rate else "frozen", rates)
    if options.layer_decay != 1:
        rates = jax.tree.map(lambda r, f: r * f, rates, layer_factors(params, options.layer_decay))
    decay = jax.tree.map(lambda factor: factor * options.weight_decay, decays)
    trained = optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        optimizers[options.name](options),
        _add_scaled(decay) if options.weight_decay else optax.identity(),
        _scale_by_tree(rates),
        optax.scale_by_learning_rate(schedule),
    )
    if "frozen" not in jax.tree.leaves(labels):
        return trained, schedule
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels), schedule


def _read_tables(options: Any, params: Any) -> tuple[Any, Any]:
    """Factors of the learning rate and of weight decay, each a tree like `params`."""
    names, errors = parameter_names(params), []
    rates = read_table("optimizer.learning_rates", options.learning_rates, names, errors)
    decays = read_table("optimizer.weight_decays", options.weight_decays, names, errors)
    if errors:
        raise UserError("\n".join(errors))
    return rates, decays


def trained_parameters(params: Any, learning_rates: Table) -> Any:
    """A tree like `params`: whether the table lets each parameter learn."""
    rates = read_table("", learning_rates, parameter_names(params), [])
    return jax.tree.map(bool, rates)


def layer_factors(params: Any, decay: float) -> Any:
    """Factors of the learning rate that fall toward the pixels, as in arXiv 2106.08254, section 2.

    The image encoder's last layer has `decay`, each layer below it `decay` times the factor of
    the one above, and so have the patches and positions below the first layer; all else has 1.

    Args:
      params: arrays or their shapes; layers are stacked.
      decay: at most 1.

    Returns:
      A tree like `params` of numbers, and of arrays [layers, 1, ...] for stacked layers.

    Raises:
      UserError: none of the parameters is in a layer of the image encoder, as with LoRA of others.
    """
    names, stacked = parameter_names(params), "image_encoder/transformer/layers/"
    pairs = zip(jax.tree.leaves(names), jax.tree.leaves(params), strict=True)
    count = next((leaf.shape[0] for name, leaf in pairs if name.startswith(stacked)), 0)
    if not count:
        raise UserError(
            f"config.optimizer.layer_decay={decay} has no effect on what is trained: nothing in "
            "the layers of the image encoder; config.optimizer.layer_decay=1 goes with any "
            "parameters, and config.lora.layers chooses others"
        )

    def factor(name: str, leaf: Any) -> Any:
        if name.startswith(stacked):
            each = decay ** np.arange(count, 0, -1, dtype=np.float32)
            return each.reshape(-1, *[1] * (leaf.ndim - 1))
        below = name.startswith("image_encoder/") and not name.startswith("image_encoder/norm/")
        return decay ** (count + 1) if below else 1.0

    return jax.tree.map(factor, names, params)


def parameter_names(params: Any) -> Any:
    """A tree like `params` with each leaf's path as its name; of factors the changed kernel's."""

    def name(path: Any, leaf: Any) -> str:
        del leaf
        return lora.name_of(jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(name, params)


def read_table(key: str, table: Table, names: Any, errors: list[str]) -> Any:
    """The value of each parameter by the table's first matching row.

    Appends to `errors` each pattern that is not a regular expression or matches nothing, and each
    parameter that no row covers.
    """
    rows = []
    for pattern, value in table:
        try:
            rows.append((re.compile(pattern), value))
        except re.error as error:
            errors.append(f"{key}: {pattern!r} is not a regular expression: {error}")
    leaves = list(dict.fromkeys(jax.tree.leaves(names)))
    for pattern, _ in rows:
        if not any(pattern.fullmatch(name) for name in leaves):
            errors.append(f"{key}: {pattern.pattern!r} matches none of {', '.join(leaves)}")
    values = {name: next((v for p, v in rows if p.fullmatch(name)), None) for name in leaves}
    uncovered = [name for name, value in values.items() if value is None]
    if uncovered:
        errors.append(f"{key}: no row covers {', '.join(uncovered)}; add a last row ('.*', ...)")
    return jax.tree.map(values.get, names)


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
