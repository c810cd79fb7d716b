"""Options of the evaluations for which a model generates text."""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation
from coca_jax.fields import UINT32, choice, either, field, flag, integer, nothing, number
from coca_jax.generate import METHODS, Beams, Decoding, Sampling, make_method

LIMITS = ("length", "min_length", "repetition_penalty")


@dataclasses.dataclass(frozen=True)
class Generation(Evaluation):
    """An evaluation with the options of `LoadedModel.caption`."""

    method: str = field("greedy", "How tokens are chosen.", choice(*METHODS))
    seed: int = field(0, "Seed of `sample`.", integer(0, UINT32))
    length: int | None = field(
        None,
        "The most tokens of a text, including begin, prompt and end; None: the model's text "
        "length.",
        either(nothing(), integer(2, 2**16)),
    )
    min_length: int = field(
        0, "The fewest tokens before the end, including begin and prompt.", integer(0, 2**16)
    )
    repetition_penalty: float | int = field(
        1.0, "Above 1, tokens that the text already has become less likely.", number(above=True)
    )
    beams: int = field(Beams.beams, "Texts that `beam` extends.", integer(1, 4096))
    n_best: int = field(Beams.n_best, "Texts of an image that `beam` returns.", integer(1, 4096))
    length_penalty: float | int = field(
        Beams.length_penalty, "Of `beam`: above 0 favors long texts.", number(-10, 10)
    )
    early_stopping: bool = field(
        Beams.early_stopping,
        "Whether `beam` is done with an image when as many texts as there are beams have ended.",
        flag(),
    )
    samples: int = field(Sampling.samples, "Texts that `sample` draws.", integer(1, 4096))
    temperature: float | int = field(
        Sampling.temperature, "Of `sample`: below 1 favors probable tokens.", number(above=True)
    )
    top_k: int = field(
        Sampling.top_k, "Of `sample`: only this many most probable tokens; 0: all.", integer()
    )
    top_p: float | int = field(
        Sampling.top_p,
        "Of `sample`: only the fewest tokens whose probabilities add up to this.",
        number(0, 1, above=True),
    )

    @property
    def caption_options(self) -> dict[str, Any]:
        """Arguments of `LoadedModel.caption`, without those that have their default value."""
        names = [f.name for f in dataclasses.fields(Generation)]
        inherited = {f.name for f in dataclasses.fields(Evaluation)}
        return {n: getattr(self, n) for n in names if n not in inherited and self._is_set(n)}

    def errors(self) -> Iterator[str]:
        """Messages about options that no text can be generated with."""
        options = self.caption_options
        method = options.pop("method", "greedy")
        limits = {name: options.pop(name) for name in LIMITS if name in options}
        try:
            make_method(method, options)
            Decoding(0, 1, 2, **({"length": sys.maxsize} | limits))
        except UserError as error:
            yield f"method={method!r}: {error}"

    def _is_set(self, name: str) -> bool:
        return getattr(self, name) != type(self).__dataclass_fields__[name].default
