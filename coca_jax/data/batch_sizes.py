"""The size of each step's batch, where images have several lengths of sequences."""

import bisect
import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """How many examples each step has, and how many patches an image at most: of its number alone.

    Of k lengths each comes once in every k steps, in random order. A step has as many times
    `batch_size` examples as its length fits into the longest one, so that what divides `batch_size`
    divides its batch. All steps have as many tokens where each length divides the longest one;
    else some have fewer.

    Attributes:
      batch_size: examples of a step of the longest length.
      lengths: of sequences of patches; none: all images have one size.
      seed: of the order.
    """

    batch_size: int
    lengths: tuple[int, ...] = ()
    seed: int = 0

    def length(self, step: int) -> int | None:
        """Most patches of an image in the step after the first `step` ones; None: one size."""
        return self._lengths(step)[step % len(self.lengths)] if self.lengths else None

    def size(self, step: int) -> int:
        """Examples of the step after the first `step` ones."""
        length = self.length(step)
        return self.batch_size if length is None else self._sizes[length]

    def examples_seen(self, step: int) -> int:
        """Examples of the first `step` steps."""
        return sum(self.examples_seen_by_length(step).values())

    def examples_seen_by_length(self, step: int) -> dict[int | None, int]:
        """Examples of the first `step` steps by their lengths; None: all images have one size."""
        if not self.lengths:
            return {None: step * self.batch_size}
        cycles, rest = divmod(step, len(self.lengths))
        begun = self._lengths(step)[:rest]
        return {
            n: size * (cycles * self.lengths.count(n) + begun.count(n))
            for n, size in self._sizes.items()
        }

    def steps(self, examples: int) -> int:
        """The fewest steps that have this many examples."""
        if not self.lengths:
            return -(-examples // self.batch_size)
        first = examples // self._of_cycle * len(self.lengths)
        after = range(first, first + len(self.lengths) + 1)
        return first + bisect.bisect_left(after, examples, key=self.examples_seen)

    @functools.cached_property
    def _sizes(self) -> dict[int, int]:
        return {n: self.batch_size * (max(self.lengths) // n) for n in self.lengths}

    @functools.cached_property
    def _of_cycle(self) -> int:
        return sum(self._sizes[length] for length in self.lengths)

    def _lengths(self, step: int) -> list[int]:
        """The lengths in the order of the cycle that the step is in."""
        cycle = step // len(self.lengths)
        rng = np.random.default_rng((self.seed, cycle, len(self.lengths)))
        return [self.lengths[i] for i in rng.permutation(len(self.lengths))]
