"""The parameters that a run with LoRA leaves frozen, which its base has and no checkpoint holds."""

from typing import Any

from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from coca_jax.checkpoints.metadata import Saved
from coca_jax.errors import UserError
from coca_jax.inference import adapted
from coca_jax.inference.loading import find_recorded
from coca_jax.inference.sources import Source
from coca_jax.train.warm_start import WarmStart, folded


def find_frozen(config: ConfigDict, workdir: epath.Path, saved: Saved) -> Source:
    """The model that a run with LoRA began with, which its checkpoints do not hold.

    Args:
      config: the run's.
      workdir: the run's.
      saved: what its newest checkpoint says of itself.

    Raises:
      UserError: `init.path` names another model, or none.
    """
    record, path, use_ema = saved.metadata[adapted.KEY], config.init.path, config.init.use_ema
    try:
        source = find_recorded(record, path, record["path"])
    except UserError as error:
        raise UserError(
            f"config.init.path={path!r} should be the model that {workdir} began with, since its "
            f"checkpoints do not hold the frozen parameters: {error}"
        ) from error
    if source.item(use_ema) != record["item"]:
        raise UserError(f"config.init.use_ema={use_ema}: {workdir} began with the other value")
    return source


def require_frozen(warm_start: WarmStart, frozen: Any) -> None:
    """Makes sure that a source has all parameters that are not trained, as they are here.

    Args:
      warm_start: what a new run takes of the source.
      frozen: a tree of the parameters.

    Raises:
      UserError: names those that it does not have, and what fixes it.
    """
    source, missing = warm_start.source, {*warm_start.new, *warm_start.reshaped}
    if not isinstance(source, Source):
        raise UserError(f"config.lora.rank: {source.title} is not a CoCa model; LoRA needs one")
    names = traverse_util.flatten_dict(frozen, sep="/")
    if lacking := [name for name in names if name in missing]:
        raise UserError(
            f"config.lora.full should match the parameters that {source.title} does "
            f"not have as they are here, since only those it has can be frozen: "
            f"{folded(tuple(lacking))}"
        )


def restore_frozen(warm_start: WarmStart, target: Any) -> Any:
    """The parameters that a run with LoRA leaves as they are.

    Args:
      warm_start: from the model that the run began with.
      target: their shapes with shardings.

    Raises:
      UserError: the source's files have been damaged since the run was built.
    """
    return warm_start.source.restore(warm_start.item, target, partial=True)
