"""Functions as StableHLO, in the files of `jax.export`."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array

from coca_jax.export.functions import Traced

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # as `jax.export` names them


def write_stablehlo(
    traced: Traced,
    weights: dict[str, jax.ShapeDtypeStruct],
    path: pathlib.Path,
    platforms: Sequence[str],
) -> None:
    """Writes a function, for `jax.export.deserialize`; it takes its weights as a dictionary.

    Args:
      traced: the function.
      weights: shape and type of those that it reads.
      path: of the file.
      platforms: that it can run on, among `PLATFORMS`.
    """
    run = jaxpr_as_fun(traced.jaxpr)

    def function(weights: dict[str, Any], *inputs: Array) -> dict[str, Array]:
        outputs = run(*[weights[name] for name in traced.weights], *inputs)
        return dict(zip(traced.outputs, outputs, strict=True))

    function.__name__ = traced.name
    export = jax.export.export(jax.jit(function), platforms=platforms)
    path.write_bytes(export(weights, *traced.inputs.values()).serialize())
