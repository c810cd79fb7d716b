"""A whole configuration is checked, its evaluations included."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from coca_jax import config as configs
from coca_jax.config.loading import items
from coca_jax.evaluate.runner import mistakes


def validate(
    config: ConfigDict,
    devices: int | None = None,
    others: Sequence[str] = (),
    *,
    reads_data: bool = False,
) -> None:
    """Checks all of a configuration, as `coca_jax.config.validate` does without its evaluations.

    Args:
      config: the whole tree.
      devices: how many there are; None leaves the mesh unchecked.
      others: problems found elsewhere, to be told in the same message.
      reads_data: whether the training data are read, and must be named.

    Raises:
      UserError: one line per problem, each with the key, its value and what would be right.
    """
    problems = [*mistakes(items(config).get("eval")), *others]
    configs.validate(config, devices, problems, reads_data=reads_data)
