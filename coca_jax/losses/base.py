"""A loss as one object: its options, what it reads of the model's output, and its value."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from coca_jax.fields import field, number

WEIGHT = (
    "Factor in the sum of losses that is minimized; 0: the loss is left out, with its parameters."
)
Values = dict[str, Any]  # arrays, and images that may be `Patches`
LossAndMetrics = tuple[Float[Array, ""], Values]


@dataclasses.dataclass(frozen=True)
class Loss(abc.ABC):
    """One term of the objective; its fields are the section `loss.NAME` of the configuration.

    A subclass says what it reads and computes its value. If that is a mean over things that each
    example has of its own, such as its tokens, `count` says how many, and gradients of
    micro-batches are weighted by it. If every example is compared with every other,
    `whole_batch` is True: the outputs that it reads are then computed for the whole batch first.
    """

    training_only: ClassVar[bool] = False  # its value is not computed on held-out examples

    weight: float = field(1.0, WEIGHT, number())

    @property
    @abc.abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Fields of `coca_jax.models.CoCaOutput`; the parts of the model that make them exist."""

    @property
    def reads_if_there(self) -> tuple[str, ...]:
        """Further fields, which only some batches make exist."""
        return ()

    @property
    def whole_batch(self) -> bool:
        """Whether the value is not a mean over parts of single examples."""
        return False

    @abc.abstractmethod
    def __call__(self, output: Any, batch: Values) -> LossAndMetrics:
        """The value of a batch.

        Args:
          output: the model's, a `CoCaOutput`.
          batch: its arrays, such as `text`, `text_mask` (False at padding), `label` and
            `negative_mask` (False where an example has no wrong caption).

        Returns:
          The unweighted value, which is written as `train/NAME_loss`; and metrics by name, each
          a mean over the same things.
        """

    def count(self, batch: Values) -> Int[Array, ""]:
        """The number of things that the value is a mean over; by default the examples."""
        return jnp.int32(len(batch["image"]))

    def constrain(self, params: Any) -> Any:
        """Projects the updated parameters to the values that the loss allows; by default all."""
        return params


def weighted_sum(losses: Mapping[str, Loss], output: Any, batch: Values) -> LossAndMetrics:
    """The sum of losses that is minimized (arXiv 2205.01917, section 3.2), and all metrics."""
    total, metrics = jnp.float32(0), {}
    for name, loss in losses.items():
        with jax.named_scope(f"{name}_loss"):
            value, more = loss(output, batch)
        total += loss.weight * value
        metrics |= {f"{name}_loss": value} | more
    return total, metrics
