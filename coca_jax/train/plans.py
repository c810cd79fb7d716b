"""Plans of a configured run on devices that are not here, one or many."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from coca_jax.config import model_config
from coca_jax.errors import UserError
from coca_jax.planning.plan import Refusal, plan, refusal
from coca_jax.planning.topologies import Topology
from coca_jax.train.ahead import compile_ahead, full_mesh

FSDP, TENSOR = (1, 4, 16, 64), (1, 4)
REMAT = ("none", "dots_with_no_batch_dims_saveable", "full")  # ever less is kept
MOST_MICRO_BATCHES = 64


class Choice(NamedTuple):
    """What a search varies."""

    fsdp: int
    tensor: int
    remat: str
    accumulate: int = 1

    def __str__(self) -> str:
        text = f"fsdp={self.fsdp} tensor={self.tensor} remat={self.remat}"
        return f"{text} accumulate={self.accumulate}"

    def applied(self, config: ConfigDict) -> ConfigDict:
        """A copy of the configuration with it."""
        config = ConfigDict(config.to_dict())
        config.mesh.update({"data": -1, "fsdp": self.fsdp, "tensor": self.tensor})
        config.model.remat, config.train.accumulate = self.remat, self.accumulate
        return config


def plan_run(config: ConfigDict, topology: Topology) -> dict[str, Any]:
    """The plan of this configuration on this topology; compiles, which takes minutes for a pod.

    Raises:
      Refusal: it does not fit.
      UserError: the configuration is wrong.
    """
    mesh = full_mesh(config, topology.devices)
    try:
        step = compile_ahead(config, mesh)
    except RuntimeError as error:  # the compiler's
        raise refusal(error, topology) or error from error
    return plan(model_config(config), topology, step, config.train.batch_size, config.train.steps)


def search(
    config: ConfigDict, topology: Topology, tell: Callable[[str], None]
) -> dict[Choice, dict[str, Any]]:
    """Plans of what fits, the fastest first.

    Each mesh is tried with each policy of rematerialisation, until one fits whole, with the fewest
    micro-batches that fit: a refusal says how much memory is lacking, and so how many to try next.

    Args:
      config: what is varied.
      topology: on what.
      tell: is given a line for each attempt.
    """
    found, whole = {}, set()
    for choice in choices(config, topology):
        if choice[:2] in whole:  # computing more again would only be slower
            continue
        while choice.accumulate <= MOST_MICRO_BATCHES:
            try:
                result = plan_run(choice.applied(config), topology)
            except Refusal as error:
                tell(f"{choice}: {error.needed / 2**30:.2f} GiB, does not fit")
                ratio = error.needed / topology.generation.limit
                choice = choice._replace(accumulate=choice.accumulate * max(2, _power(ratio)))
                continue
            except UserError as error:
                tell(f"{choice}: {str(error).splitlines()[0]}")
                break
            tell(f"{choice}: {result['step_seconds']:.3g} s, MFU {result['mfu']:.0%}")
            found[choice] = result
            if choice.accumulate == 1:
                whole.add(choice[:2])
            break
    return dict(sorted(found.items(), key=lambda item: _speed(item[1])))


def choices(config: ConfigDict, topology: Topology) -> Iterator[Choice]:
    """Meshes that fill the topology, with each policy."""
    devices = len(topology.devices) // topology.slices
    for fsdp in sorted({*FSDP, config.mesh.fsdp}):
        for tensor in sorted({*TENSOR, config.mesh.tensor}):
            if fsdp * tensor <= devices and devices % (fsdp * tensor) == 0:
                for remat in REMAT:
                    yield Choice(fsdp, tensor, remat)


def _speed(result: dict[str, Any]) -> tuple[float, float]:
    return result["step_seconds"], result["step_seconds_without_overlap"]


def _power(ratio: float) -> int:
    """The largest power of two that is at most the ratio."""
    return 2 ** (int(ratio).bit_length() - 1)
