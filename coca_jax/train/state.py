"""The training state: what it holds, how it is sharded, and how it begins."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from coca_jax.distributed import Partitioner
from coca_jax.distributed.sharding import Rules, undivided
from coca_jax.errors import UserError
from coca_jax.models import CoCa, init_params


@struct.dataclass
class TrainState:
    """All that a step reads and writes. Randomness is `fold_in(seed, step)`, so no key is kept."""

    step: Any  # int32 []
    params: Any
    optimizer: optax.OptState
    ema: Any  # moving average of the parameters; None if there is none
    frozen: Any = None  # with LoRA, the parameters that are not in `params`: see `models.lora`


class StateFactory:
    """Makes training states of one model and optimizer, sharded from the start."""

    def __init__(
        self,
        model: CoCa,
        make_optimizer: Callable[[Any], tuple[optax.GradientTransformation, optax.Schedule]],
        partitioner: Partitioner,
        ema: bool = False,
        optimizer_rules: Rules = (),
        split: Callable[[Any, jax.Array], tuple[Any, Any]] = lambda params, key: (params, None),
    ):
        """Traces the model once; nothing is computed.

        Args:
          model: the model to be trained.
          make_optimizer: from parameter shapes to an optimizer and its schedule.
          partitioner: mesh and rules.
          ema: whether an average of the parameters is kept.
          optimizer_rules: read before the partitioner's for the optimizer's state and the average.
          split: from new parameters and a key to those that are trained and those that are frozen.

        Raises:
          UserError: the mesh does not divide a parameter.
        """
        self._model, self._partitioner, self._ema, self._split = model, partitioner, ema, split
        with partitioner.context():
            # Nothing is computed here, not even a key: the mesh may be of devices that are not.
            boxed, frozen = jax.eval_shape(lambda: self._init_params(jax.random.key(0)))
            params, frozen = partitioner.abstract(boxed), partitioner.abstract(frozen)
            self.optimizer, self.schedule = make_optimizer(params)
            shapes = jax.eval_shape(self._state_of, params, frozen)
        rules = (*optimizer_rules, *partitioner.rules)
        kept = Partitioner(partitioner.mesh, rules).abstract(boxed)
        self.shardings = TrainState(
            step=partitioner.replicated,
            params=jax.tree.map(lambda x: x.sharding, params),
            optimizer=_optimizer_shardings(shapes.optimizer, kept, partitioner),
            ema=jax.tree.map(lambda x: x.sharding, kept) if ema else None,
            frozen=jax.tree.map(lambda x: x.sharding, frozen),
        )
        if problems := undivided(shapes, self.shardings):
            raise UserError("the mesh does not divide these arrays:\n" + "\n".join(problems))
        self.abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings
        )

    def create(self, seed: int) -> TrainState:
        """A new state; no array of it is ever whole on one device unless its sharding says so."""
        with self._partitioner.context():
            return jax.jit(self._init, out_shardings=self.shardings)(jax.random.key(seed))

    def _init_params(self, key: jax.Array) -> tuple[Any, Any]:
        return self._split(init_params(self._model, key, self._partitioner.batch_shards), key)

    def _init(self, key: jax.Array) -> TrainState:
        return self._state_of(*nn.meta.unbox(self._init_params(key)))

    def _state_of(self, params: Any, frozen: Any) -> TrainState:
        ema, step = jax.tree.map(jnp.copy, params) if self._ema else None, jnp.zeros((), jnp.int32)
        return TrainState(step, params, self.optimizer.init(params), ema, frozen)


def _optimizer_shardings(optimizer: Any, params: Any, partitioner: Partitioner) -> Any:
    """Each array of the optimizer is sharded as the parameter that its path ends with.

    Adafactor's factored moments lack one axis of their parameter, and so does their sharding.
    """
    params_by_path = dict(jax.tree_util.tree_leaves_with_path(params))

    def find(path, leaf):
        for start in range(len(path)):
            if path[start:] in params_by_path:
                return (
                    _without_axis(leaf.shape, params_by_path[path[start:]])
                    or partitioner.replicated
                )
        return partitioner.replicated

    return jax.tree_util.tree_map_with_path(find, optimizer)


def _without_axis(shape: tuple[int, ...], param: jax.ShapeDtypeStruct) -> NamedSharding | None:
    """The sharding of an array shaped like `param`, or like it with one axis taken away."""
    spec = tuple(param.sharding.spec) + (None,) * (param.ndim - len(param.sharding.spec))
    if shape == param.shape:
        return param.sharding
    for axis in range(param.ndim):
        if shape == param.shape[:axis] + param.shape[axis + 1 :]:
            return NamedSharding(
                param.sharding.mesh, PartitionSpec(*spec[:axis], *spec[axis + 1 :])
            )
    return None
