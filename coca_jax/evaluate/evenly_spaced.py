"""A few of many, for the report."""

from collections.abc import Callable
from typing import Any


class EvenlySpaced:
    """Picks evenly spaced ones of a stream that it does not know the length of.

    Less than twice as many as are wanted are kept meanwhile: whenever there would be more, every
    second one is dropped, and only every second one is kept from then on.
    """

    def __init__(self, wanted: int):
        self._wanted, self._kept, self._offered, self._stride = wanted, [], 0, 1

    def offer(self, make: Callable[[], Any]) -> None:
        """Offers the next one of the stream, which is made if it is kept."""
        if self._offered % self._stride == 0:
            self._kept.append(make())
        if len(self._kept) == 2 * self._wanted:
            self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._offered += 1

    def chosen(self) -> list[Any]:
        """As many as are wanted, or all if there are less."""
        count = len(self._kept)
        taken = min(count, self._wanted)
        return [self._kept[i * count // taken] for i in range(taken)]
