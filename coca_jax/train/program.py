"""The model, sharded state and step that train a configuration on a mesh; nothing is computed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from coca_jax.accelerators import compiler_options
from coca_jax.config import build, model_config
from coca_jax.config.schema import LoraConfig
from coca_jax.distributed import Partitioner
from coca_jax.errors import UserError
from coca_jax.losses import trained_losses
from coca_jax.models import CoCa, lora, make_model
from coca_jax.train.gradient import Objective
from coca_jax.train.optimizer import make_optimizer, trained_parameters
from coca_jax.train.quantization import quantized
from coca_jax.train.state import StateFactory
from coca_jax.train.step import StepFunction, make_train_step


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """A train step with all that it is compiled for."""

    model: CoCa
    partitioner: Partitioner
    factory: StateFactory
    step: StepFunction
    lora_scale: float = 0.0

    def trace(self, state: Any, batch: Any) -> Any:
        """Traces the step, which gives up the state that goes in for the one that comes out.

        Args:
          state: arrays, or shapes with shardings.
          batch: arrays, or shapes with shardings.

        Returns:
          The result of `jax.jit(...).trace(...)`: the program as `jaxpr`, and `lower()`.
        """
        outputs = jax.tree.map(lambda x: x.sharding, state), self.partitioner.replicated
        jitted = jax.jit(self.step, donate_argnums=0, out_shardings=outputs)
        with self.partitioner.context():
            return jitted.trace(state, batch)

    def merged(self, frozen: Any, params: Any) -> Any:
        """The model's parameters, of those that a state of this program has.

        Args:
          frozen: of the state; None: `params` are all of them.
          params: of the state, or their moving average.
        """
        if frozen is None:
            return params
        out = jax.tree.map(lambda x: x.sharding, lora.model_params(frozen, params))
        return jax.jit(lora.merged, static_argnums=2, out_shardings=out)(
            frozen, params, self.lora_scale
        )

    def compile(
        self, state: Any, batch: Any, options: Sequence[tuple[str, Any]] = ()
    ) -> StepFunction:
        """Traces and compiles the step; see `trace` and `compile_traced`."""
        return compile_traced(self.trace(state, batch), self.partitioner, options)


def make_program(config: ConfigDict, partitioner: Partitioner) -> TrainProgram:
    """The program that trains a configuration.

    Args:
      config: the whole configuration, valid.
      partitioner: mesh, of devices that are here or not, and rules.

    Raises:
      UserError: the mesh does not divide a parameter, a table of the optimizer does not fit the
        parameters, or a package is missing.
    """
    options = build(config)
    model = make_model(model_config(options, partitioner.mesh.devices.flat[0]))
    factory = StateFactory(
        model,
        lambda params: make_optimizer(options.optimizer, options.train.steps, params),
        partitioner,
        ema=options.optimizer.ema_decay > 0,
        optimizer_rules=options.sharding.optimizer_rules,
        **_split(options.lora),
    )
    objective = Objective(
        quantized(model, options.train.quantization),
        trained_losses(options.loss),
        trained_parameters(factory.abstract.params, options.optimizer.learning_rates),
        lora_scale=options.lora.scale,
    )
    step = make_train_step(
        objective,
        factory.optimizer,
        factory.schedule,
        seed=options.seed,
        grad_accum_steps=options.train.grad_accum_steps,
        ema_decay=options.optimizer.ema_decay,
    )
    return TrainProgram(model, partitioner, factory, step, options.lora.scale)


def _split(options: LoraConfig) -> dict[str, Any]:
    """What splits the parameters of a run with LoRA; of others nothing does."""
    if not options.rank:
        return {}
    patterns = options.layers, options.full
    return {"split": lambda params, key: lora.split(params, options.rank, *patterns, key)}


def compile_traced(
    traced: Any, partitioner: Partitioner, options: Sequence[tuple[str, Any]]
) -> StepFunction:
    """Compiles a traced step.

    Args:
      traced: from `TrainProgram.trace`.
      partitioner: the mesh that it was traced on.
      options: `config.compiler_options`.

    Raises:
      UserError: the compiler does not know an option, or refuses its value.
    """
    values = compiler_options(partitioner.mesh.devices.flat[0], options)
    try:
        with partitioner.context():
            return traced.lower().compile(values)
    except RuntimeError as error:  # the compiler's
        if "INVALID_ARGUMENT" in str(error) and "option" in str(error):
            raise UserError(f"config.compiler_options: {error}") from error
        raise
