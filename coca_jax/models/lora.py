"""LoRA (arXiv 2106.09685): fine-tuning by a low-rank change of kernels that stay frozen.

A kernel `W` of a `Dense` layer becomes `W + alpha / rank * a @ b`, with `a` [in, rank] random and
`b` [rank, out] zero at first. The parameters of such a run are in two trees:

- frozen: the model's parameters that are not trained; kernels with factors are among them.
- trained: parameters that are trained in full, and under `lora` the factors, at the kernel's path.
  A head is always trained in full.

While training, `Dense` adds `x @ a @ b` to `x @ W`, so that there is no gradient as large as `W`;
everywhere else the factors are merged into the kernels, and the model knows nothing of them.
Stacked layers have stacked factors.

Qwix has LoRA, too. It makes the factors inside of the model's parameters by intercepting matmuls;
here they have to be apart, with logical axes, to be sharded, saved and averaged alone. What is
left for it to do are the two matmuls in `Dense`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from coca_jax.errors import UserError

FACTORS = "lora"  # the collection of variables, and the name in the tree of trained parameters
SHOWN = 12  # names in an error


def split(params: Any, rank: int, layers: Sequence[str], full: Sequence[str], key: Any) -> tuple:
    """The trained and the frozen parameters of a new run.

    Args:
      params: the model's, each in its box of logical axis names (or in none).
      rank: of the factors.
      layers: patterns of the names of kernels that get factors, as in `decoder/.*/kernel`.
      full: patterns of the names of parameters that are trained in full.
      key: of the random factors.

    Returns:
      Two trees with boxes.

    Raises:
      UserError: a pattern matches nothing, or the same parameter as one of the other list.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    rest = [name for name in flat if not _of_head(name)]
    kernels = [name for name in rest if name.endswith("/kernel")]
    with_factors = _matching("layers", layers, kernels)
    whole = _matching("full", full, rest)
    if both := [name for name in with_factors if name in whole]:
        raise UserError(
            f"config.lora.full matches {_listed(both)}, which config.lora.layers matches, too"
        )
    trained = {name: leaf for name, leaf in flat.items() if name in whole or _of_head(name)}
    frozen = {name: leaf for name, leaf in flat.items() if name not in trained}
    for index, name in enumerate(with_factors):
        factors = _new_factors(flat[name], rank, jax.random.fold_in(key, index))
        trained |= {f"{FACTORS}/{name}/{part}": leaf for part, leaf in factors.items()}
    return _unflatten(trained), _unflatten(frozen)


def _of_head(name: str) -> bool:
    return name.startswith(("head", "matching_head"))


def _matching(key: str, patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that a pattern matches from beginning to end; a UserError if one matches none."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            what = "kernel" if key == "layers" else "parameter but a head's"
            raise UserError(
                f"config.lora.{key}: {pattern!r} matches no {what}; there are {_listed(names)}"
            )
    return [name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _new_factors(kernel: Any, rank: int, key: jax.Array) -> dict[str, Any]:
    """`a`, normal with variance 1 / in, and `b`, zeros; boxed as the kernel is."""
    names = getattr(kernel, "names", None)
    *stack, rows, columns = nn.meta.unbox(kernel).shape

    def boxed(value: Array, *last: str | None) -> Any:
        return value if names is None else nn.LogicallyPartitioned(value, (*names[:-2], *last))

    rows_axis, columns_axis = (None, None) if names is None else names[-2:]
    a = jax.random.normal(key, (*stack, rows, rank), jnp.float32) * rows**-0.5
    b = jnp.zeros((*stack, rank, columns), jnp.float32)
    return {"a": boxed(a, rows_axis, None), "b": boxed(b, None, columns_axis)}


def name_of(path: str) -> str:
    """The name of the parameter at a path among the trained ones; of a factor, its kernel's."""
    inside = path.removeprefix(f"{FACTORS}/")
    return path if inside == path else inside.rpartition("/")[0]


def model_params(frozen: Any, trained: Any) -> Any:
    """The model's parameters without the factors' change; `trained` itself if nothing is frozen."""
    if frozen is None:
        return trained
    flat = traverse_util.flatten_dict(trained, sep="/")
    whole = {name: leaf for name, leaf in flat.items() if not name.startswith(f"{FACTORS}/")}
    return _unflatten(traverse_util.flatten_dict(frozen, sep="/") | whole)


def variables(frozen: Any, trained: Any, scale: float) -> dict[str, Any]:
    """What a model is applied to while training: the parameters, and the factors.

    Args:
      frozen: as of `split`; None: all parameters are trained in full.
      trained: as of `split`.
      scale: alpha / rank.
    """
    params = {"params": model_params(frozen, trained)}
    if frozen is None:
        return params
    flat = traverse_util.flatten_dict(trained[FACTORS], sep="/")
    scaled = {name: x * scale if name.endswith("/a") else x for name, x in flat.items()}
    return params | {FACTORS: _unflatten(scaled)}


def merged(frozen: Any, trained: Any, scale: float) -> Any:
    """The model's parameters with the factors' change in the kernels; see `variables`."""
    params = model_params(frozen, trained)
    if frozen is None:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    factors = traverse_util.flatten_dict(trained.get(FACTORS, {}), sep="/")
    return _unflatten(
        {name: merged_kernel(leaf, name, factors, scale) for name, leaf in flat.items()}
    )


def merged_kernel(
    leaf: Float[Array, "*axes"], name: str, factors: Mapping[str, Array], scale: float
) -> Float[Array, "*axes"]:
    """A parameter, changed by its factors `name/a` and `name/b` if there are any."""
    if f"{name}/a" not in factors:
        return leaf
    a, b = factors[f"{name}/a"], factors[f"{name}/b"]
    change = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return (leaf.astype(jnp.float32) + scale * change).astype(leaf.dtype)


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict(flat, sep="/")
