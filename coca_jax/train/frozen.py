"""The model that a run with LoRA began with, when it goes on: it has the frozen parameters."""

from etils import epath
from ml_collections import ConfigDict

from coca_jax.checkpoints.metadata import Saved
from coca_jax.errors import UserError
from coca_jax.inference import adapted
from coca_jax.inference.loading import find_base
from coca_jax.inference.sources import Source


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
        source = find_base(record, path)
    except UserError as error:
        raise UserError(
            f"config.init.path={path!r} should be the model that {workdir} began with, since its "
            f"checkpoints do not hold the frozen parameters: {error}"
        ) from error
    if source.item(use_ema) != record["item"]:
        raise UserError(f"config.init.use_ema={use_ema}: {workdir} began with the other value")
    return source
