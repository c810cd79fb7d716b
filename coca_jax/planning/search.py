"""Plans of a run on devices that need not be here: one, or a search for the fastest."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from coca_jax.config import model_config
from coca_jax.distributed.mesh import mesh_shape
from coca_jax.errors import UserError
from coca_jax.io.files import write_whole
from coca_jax.planning.aot import compile_ahead, estimate_ahead, full_mesh
from coca_jax.planning.chips import GIB
from coca_jax.planning.cuda import IncompletePlugin, incomplete_plugin
from coca_jax.planning.plan import OutOfMemory, out_of_memory, plan, ranking_seconds
from coca_jax.planning.topologies import Topology

FSDP, TENSOR = (1, 4, 8, 16, 64), (1, 4)  # with all devices of a slice or machine in fsdp, too
REMAT = ("none", "dots_with_no_batch_dims_saveable", "full")  # each keeps less than the one before
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
COMPILED = 3


class Choice(NamedTuple):
    """The settings that a search varies."""

    fsdp: int
    tensor: int
    remat: str
    grad_accum_steps: int = 1

    def __str__(self) -> str:
        text = f"fsdp={self.fsdp} tensor={self.tensor} remat={self.remat}"
        return f"{text} grad_accum_steps={self.grad_accum_steps}"

    def applied(self, config: ConfigDict) -> ConfigDict:
        """A copy of the configuration with these settings."""
        config = ConfigDict(config.to_dict())
        config.mesh.update({"data": -1, "fsdp": self.fsdp, "tensor": self.tensor})
        config.model.remat, config.train.grad_accum_steps = self.remat, self.grad_accum_steps
        config.model.image.remat = config.model.text.remat = ""
        return config


def plan_run(
    config: ConfigDict, topology: Topology, compiled: bool = True, hlo: str | None = None
) -> dict[str, Any]:
    """The plan of this configuration on this topology.

    Args:
      config: the run.
      topology: the devices.
      compiled: whether to compile, which takes minutes for a pod; otherwise, and where no compiler
        is here, the plan is an estimate.
      hlo: file for the text of the compiled program.

    Raises:
      OutOfMemory: it does not fit.
      IncompletePlugin: the compiler lacks a library.
      UserError: the configuration is not valid.
    """
    mesh, program = full_mesh(config, topology.devices), None
    try:
        if compiled and topology.compiles:
            program, step = compile_ahead(config, mesh)
        else:
            step = estimate_ahead(config, mesh)
    except RuntimeError as error:  # JAX's or the compiler's
        if refusal := out_of_memory(error, topology) or incomplete_plugin(error):
            raise refusal from error
        raise
    if hlo and program:
        write_whole(hlo, program.as_text().encode())
    # The compiler for GPUs leaves it to the device to refuse what does not fit.
    needed = step.arguments + step.temp_bytes
    if (topology.switched or step.estimated) and needed > topology.generation.limit:
        raise OutOfMemory(needed, topology)
    return plan(
        model_config(config),
        topology,
        step,
        config.train.batch_size,
        None if config.train.epochs else config.train.steps,
        config.data.packing,
    )


def plan_or_advise(
    config: ConfigDict, topology: Topology, hlo: str | None = None
) -> dict[str, Any]:
    """The plan of this configuration; if it does not fit, the error says what would, by estimates.

    Args:
      config: the run.
      topology: the devices.
      hlo: file for the text of the compiled program.

    Raises:
      UserError: it does not fit, or the configuration is not valid.
    """
    try:
        return plan_run(config, topology, hlo=hlo)
    except OutOfMemory as error:
        choice = next((c for c in _smaller(config, topology) if _fits(c, config, topology)), None)
        if choice is None:
            advice = (
                "by estimate, none of the meshes that were tried fits, with full remat and up to "
                f"{MICRO_BATCHES[-1]} micro-batches: a smaller config.train.batch_size, a smaller "
                "model or more chips would be needed"
            )
        else:
            advice = f"by estimate, this fits: {choice}; --search finds the fastest that does"
        raise UserError(f"{error}; {advice}") from error


def _smaller(config: ConfigDict, topology: Topology) -> Iterator[Choice]:
    """Choices that take less memory, one after another: full remat, more shards, micro-batches."""
    devices = len(topology.devices) // topology.slices
    _, own_fsdp, tensor = mesh_shape(config.mesh, len(topology.devices))
    widest = max((n for n in (own_fsdp, *FSDP) if devices % (n * tensor) == 0), default=own_fsdp)
    for grad_accum_steps in MICRO_BATCHES:
        for fsdp in dict.fromkeys((own_fsdp, widest, devices // tensor)):
            if grad_accum_steps >= config.train.grad_accum_steps:
                yield Choice(fsdp, tensor, "full", grad_accum_steps)


def _fits(choice: Choice, config: ConfigDict, topology: Topology) -> bool:
    try:
        plan_run(choice.applied(config), topology, compiled=False)
    except UserError:
        return False
    return True


def search(
    config: ConfigDict, topology: Topology, report: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Plans of the choices that fit, by name, the fastest first.

    Each mesh is estimated with each remat policy and the fewest micro-batches that
    fit. The best of these are compiled, until `COMPILED` fit, where a compiler is here.

    Args:
      config: the run.
      topology: the devices.
      report: is given a line for each attempt.

    Raises:
      UserError: nothing fits, or the compiler lacks a library.
    """
    results: dict[Choice, dict[str, Any]] = {}
    for choice in choices(config, topology):
        for grad_accum_steps in MICRO_BATCHES:
            tried = choice._replace(grad_accum_steps=grad_accum_steps)
            if result := _attempt(tried, config, topology, report, compiled=False):
                results[tried] = result
                break
    ranked = sorted(results, key=lambda choice: _speed(results[choice]))
    if topology.compiles:
        results = {}
        for choice in ranked:
            if result := _attempt(choice, config, topology, report, compiled=True):
                results[choice] = result
            if len(results) == COMPILED:
                break
    if not results:
        raise UserError(f"nothing that was tried fits {topology.name}")
    return {str(c): results[c] for c in sorted(results, key=lambda choice: _speed(results[choice]))}


def _attempt(
    choice: Choice,
    config: ConfigDict,
    topology: Topology,
    report: Callable[[str], None],
    compiled: bool,
) -> dict[str, Any] | None:
    """The plan with this choice; None if it does not fit or is not valid."""
    begin = f"{choice}, {'compiled' if compiled else 'estimated'}:"
    try:
        result = plan_run(choice.applied(config), topology, compiled)
    except OutOfMemory as error:
        report(f"{begin} {error.needed / GIB:.2f} GiB, does not fit")
        return None
    except IncompletePlugin:
        raise  # no other choice would do
    except UserError as error:
        report(f"{begin} {str(error).splitlines()[0]}")
        return None
    report(f"{begin} {_speed(result)[0]:.3g} s")
    return result


def choices(config: ConfigDict, topology: Topology) -> Iterator[Choice]:
    """Meshes that fill the topology, with each remat policy."""
    devices = len(topology.devices) // topology.slices
    for fsdp in sorted({*FSDP, devices, abs(config.mesh.fsdp)}):  # -1, what is left, adds nothing
        for tensor in sorted({*TENSOR, abs(config.mesh.tensor)}):
            if fsdp * tensor <= devices and devices % (fsdp * tensor) == 0:
                for remat in REMAT:
                    yield Choice(fsdp, tensor, remat)


def _speed(result: dict[str, Any]) -> tuple[float, float]:
    """The seconds that rank a plan, and those that rank plans with the same: without overlap."""
    return ranking_seconds(result), result["step_seconds_without_overlap"]
