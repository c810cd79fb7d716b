"""Examples: the one place where records become what the model trains on."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from coca_jax.data import images
from coca_jax.data.augment import Augment
from coca_jax.data.bad import KINDS, BadExample
from coca_jax.data.captions import CaptionMaker
from coca_jax.data.duplicates import contains
from coca_jax.data.mixture import Pick
from coca_jax.data.sources import Record, Source
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.errors import UserError

# For one row; a data set of which 98% is bad or filtered gets there once in 600 million rows.
MAX_SUBSTITUTES = 1000

_SIDED = re.compile(r"\b(left|right)(wards?)?\b", re.IGNORECASE)


class Part(NamedTuple):
    """A data set and what becomes of its records."""

    source: Source
    make_caption: CaptionMaker
    augment: Augment
    left_out: Any = ()  # int64 [n], sorted: records never to be drawn


class Fault(NamedTuple):
    """An example that was replaced."""

    shard: str
    kind: str  # one of KINDS


class BatchMaker:
    """Makes batches of picked records; a row is a pure function of its (pick, rng).

    Args:
      parts: the data sets that a pick chooses from.
      tokenizer: makes the text's ids.
      image_size: height and width in pixels.
      text_length: ids of a text, bos and eos included.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        tokenizer: Tokenizer,
        *,
        image_size: tuple[int, int],
        text_length: int,
    ):
        self.parts, self.tokenizer = parts, tokenizer
        self._image_size, self._text_length = image_size, text_length

    def __call__(
        self, picks: Sequence[Pick], rngs: Sequence[np.random.Generator]
    ) -> dict[str, Any]:
        """Makes {"image": uint8 [b, h, w, 3], "text": int32 [b, l], each of KINDS: int32 [b]}.

        An unusable record is replaced by one drawn, from the same data set, by its row's `rng`;
        the counts say how many were, and "faults" is a tuple with a `Fault` for each.

        Raises:
          UserError: one unusable record after the other was drawn.
        """
        # All of one step after the other: what it needs stays in the CPU's caches.
        pairs = [self._read(pick, rng) for pick, rng in zip(picks, rngs, strict=True)]
        image = np.empty((len(pairs), *self._image_size, 3), np.uint8)
        counts = {kind: np.zeros(len(pairs), np.int32) for kind in KINDS}
        faults: list[Fault] = []
        for row, (pick, rng) in enumerate(zip(picks, rngs, strict=True)):
            part = self.parts[pick.part]
            for _ in range(MAX_SUBSTITUTES + 1):
                try:
                    if isinstance(pairs[row], BadExample):
                        raise pairs[row]
                    image[row] = self._image(part, *pairs[row], rng)
                    break
                except BadExample as error:
                    last = error
                    counts[error.kind][row] += 1
                    faults.append(Fault(part.source.shard(pick.index), error.kind))
                    pick = pick._replace(index=int(rng.integers(len(part.source))))
                    pairs[row] = self._read(pick, rng)
            else:
                found = {kind: int(count[row]) for kind, count in counts.items() if count[row]}
                raise UserError(
                    f"the data set is bad: {MAX_SUBSTITUTES + 1} unusable examples in a row "
                    f"({found}), the last one in {faults[-1].shard}: {last}"
                )
        text = self.tokenizer.encode([caption for _, caption in pairs], self._text_length)
        return {"image": image, "text": text, **counts, "faults": tuple(faults)}

    def _read(self, pick: Pick, rng: np.random.Generator) -> tuple[bytes, str] | BadExample:
        """The encoded image and the caption of a record.

        What a reader raises for a damaged record is its own affair; here it is a bad example.
        """
        source, make_caption, _, left_out = self.parts[pick.part]
        try:
            if len(left_out) and contains(left_out, pick.index):
                return BadExample("filtered_duplicate")
            record: Record = source[pick.index]
            return record["image"], make_caption(record, pick.visit, rng)
        except BadExample as error:
            return error
        except Exception as error:
            return BadExample("bad_record", error)

    def _image(self, part: Part, data: bytes, caption: str, rng: np.random.Generator) -> np.ndarray:
        may_flip = not _SIDED.search(caption)
        return part.augment(images.decode(data, part.augment.least_side), rng, may_flip)
