"""Named things that a configuration chooses among, and that a user's own file may add to."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from coca_jax.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes or functions by name; the package's own are imported when they are first asked for.

    A configuration file adds one with a decorator:

        @evaluations.register("word_count")
        @dataclasses.dataclass(frozen=True)
        class WordCount(Evaluation):
            ...
    """

    def __init__(self, noun: str, built_in: Mapping[str, str]):
        """Takes the package's own.

        Args:
          noun: what one of them is, for messages: "evaluation".
          built_in: name -> "module:attribute".
        """
        self.noun, self._built_in = noun, dict(built_in)
        self._added: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds what it decorates; a name of the user's own is replaced.

        Raises:
          UserError: the package itself has this name.
        """
        if name in self._built_in:
            raise UserError(f"{self.noun} {name!r} is coca_jax's own; choose another name")

        def add(thing: T) -> T:
            self._added[name] = thing
            return thing

        return add

    def __contains__(self, name: Any) -> bool:
        return isinstance(name, str) and (name in self._built_in or name in self._added)

    def __iter__(self) -> Iterator[str]:
        yield from (*self._built_in, *self._added)

    def __getitem__(self, name: str) -> T:
        """The thing of this name.

        Raises:
          UserError: there is none; says which there are.
        """
        if name in self._added:
            return self._added[name]
        if name not in self._built_in:
            raise UserError(
                f"{self.noun} {name!r} does not exist; there are {', '.join(self)}; one of your "
                "own must be registered by the configuration file that uses it"
            )
        module, _, attribute = self._built_in[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
