"""Kinds of values that several keys of the configuration allow."""

import dataclasses

from coca_jax.distributed.mesh import AXES
from coca_jax.distributed.sharding import RULES
from coca_jax.fields import (
    UINT32,
    Kind,
    choice,
    either,
    integer,
    nothing,
    number,
    path,
    pattern,
    row,
    several,
    text,
)

SEED = integer(0, UINT32)  # of a larger one JAX would take the lowest 32 bits
PATH = path()
SHARE = number(0, 1, below=True)
NAME = text(empty=False)  # of an evaluation or a data set
TEXTS = several(text(empty=False))
FACTORS = several(
    row(pattern(), number()),
    least=1,
    wanted="rows (regular expression, factor of 0 or more), at least one",
)
MESH_SIZE = dataclasses.replace(
    either(integer(1), integer(-1, -1)), description="a number of devices, or -1 for what is left"
)
_DEVICES = either(choice(*AXES), several(choice(*AXES), distinct=True), nothing())
SHARDING = several(
    row(choice(*(name for name, _ in RULES)), _DEVICES),
    wanted="rows (logical axis, mesh axes or None), of the logical axes "
    f"{', '.join(name for name, _ in RULES)} and the mesh axes {', '.join(AXES)}",
)
ROWS = several(Kind("a row", (), lambda value: True), least=1, wanted="rows, at least one")
