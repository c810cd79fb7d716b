"""The methods of generation by the names that commands and configurations use."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from coca_jax.errors import UserError
from coca_jax.generate.beams import Beams
from coca_jax.generate.decoding import Method
from coca_jax.generate.sampling import Greedy, Sampling

METHODS = {"greedy": Greedy, "sample": Sampling, "beam": Beams}


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The named method with its options.

    The seed is an option of sampling, too, but no part of the method, which is given a key.

    Raises:
      UserError: there is no such method or option, or its value makes no sense.
    """
    if name not in METHODS:
        raise UserError(
            f"captioning method {name!r} does not exist; there are {', '.join(METHODS)}"
        )
    fields = [field.name for field in dataclasses.fields(METHODS[name])]
    names = [*fields, "seed"] if name == "sample" else fields
    if unknown := [option for option in options if option not in names]:
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise UserError(f"captioning method {name} has no option {', '.join(unknown)}; {has}")
    return METHODS[name](**{field: options[field] for field in fields if field in options})
