"""Examples: the one place where records become what the model trains on."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from coca_jax.data.answers import normalized
from coca_jax.data.captions import CaptionMaker, Text
from coca_jax.data.duplicates import contains
from coca_jax.data.errors import ERROR_KINDS, BadExample
from coca_jax.data.mixture import Pick
from coca_jax.data.sources import Record, Source
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.data.transforms import multi_image
from coca_jax.data.transforms.augment import Augment
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
    kind: str  # one of ERROR_KINDS


class BatchMaker:
    """Makes batches of picked records; a row is a pure function of its (pick, rng).

    Args:
      parts: the data sets that a pick chooses from.
      tokenizer: makes the text's ids.
      image_size: height and width in pixels.
      text_length: ids of a text, bos and eos included.
      num_images: pictures of an example.
      classes: names of those that a head tells apart; none: there is no head.
      blank_images: whether all pictures are grey.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        tokenizer: Tokenizer,
        *,
        image_size: tuple[int, int],
        text_length: int,
        num_images: int = 1,
        classes: Sequence[str] = (),
        blank_images: bool = False,
    ):
        self.parts, self.tokenizer = parts, tokenizer
        self._num_images, self._blank = num_images, blank_images
        self._image_size, self._text_length = image_size, text_length
        self._classes = {name: number for number, name in enumerate(classes)}
        self._names = tuple(classes)
        self._repeated = {name for name in classes if self._names.count(name) > 1}

    def __call__(
        self, picks: Sequence[Pick], rngs: Sequence[np.random.Generator]
    ) -> dict[str, Any]:
        """Makes {"image": uint8 [b, h, w, 3], "text": int32 [b, l], each error kind: int32 [b]}.

        If num_images > 1, "image" is [b, num_images, h, w, 3]. For a head there are int32 [b], too:
        "label" (-1: none of the classes) and "prefix_length", how many ids of the text it may read.

        An unusable record is replaced by one drawn, from the same data set, by its row's `rng`;
        the counts say how many were, and "faults" is a tuple with a `Fault` for each.

        Raises:
          UserError: one unusable record after the other was drawn.
        """
        # All of one step after the other: what it needs stays in the CPU's caches.
        pairs = [self._read(pick, rng) for pick, rng in zip(picks, rngs, strict=True)]
        several = (self._num_images,) if self._num_images > 1 else ()
        image = np.empty((len(pairs), *several, *self._image_size, 3), np.uint8)
        counts = {kind: np.zeros(len(pairs), np.int32) for kind in ERROR_KINDS}
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
        if self._blank:
            image[:] = multi_image.GREY
        texts = [text for _, text in pairs]
        ids = self.tokenizer.encode([text.text for text in texts], self._text_length)
        asked = self._asked(texts, ids) if self._classes else {}
        return {"image": image, "text": ids, **asked, **counts, "faults": tuple(faults)}

    def _asked(self, texts: Sequence[Text], ids: Int32[np.ndarray, "b l"]) -> dict[str, np.ndarray]:
        """What a head is to say, and how much of the text it may read."""
        questions = [text.question or text.text for text in texts]
        asked = self.tokenizer.encode(questions, self._text_length)
        # Behind a question there are its answer, or the end; what comes after may be alike again.
        same = np.cumprod(asked == ids, axis=1).sum(axis=1)
        read = np.minimum(same, lengths(asked, self.tokenizer))
        label = np.array([self._label(text.answer) for text in texts], np.int32)
        return {"label": label, "prefix_length": read.astype(np.int32)}

    def _label(self, answer: str | int | None) -> int:
        """The number of the head's class; -1: none of them.

        Raises:
          BadExample: it is a number that no class has, or a name that several have.
        """
        if isinstance(answer, str):
            if answer in self._repeated:
                raise BadExample(
                    "bad_record",
                    f"{answer!r}, its label, is the name of several config.head.classes",
                )
            known = self._classes.get(answer)
            # Lists of classes have answers as the VQA challenge spells them.
            return self._classes.get(normalized(answer), -1) if known is None else known
        if answer is None or answer < len(self._names):
            return -1 if answer is None else answer
        raise BadExample(
            "bad_record",
            f"config.head.classes are {len(self._names)}, for labels 0 to "
            f"{len(self._names) - 1}, and an example of config.data has the label {answer}",
        )

    def _read(self, pick: Pick, rng: np.random.Generator) -> tuple[Any, Text] | BadExample:
        """The encoded image, or images, and the text of a record.

        What a reader raises for a damaged record is its own affair; here it is a bad example.
        """
        source, make_caption, _, left_out = self.parts[pick.part]
        try:
            if len(left_out) and contains(left_out, pick.index):
                return BadExample("filtered_duplicate")
            record: Record = source[pick.index]
            text = make_caption(record, pick.visit, rng)
            if self._classes:
                self._label(text.answer)  # raises what is wrong with it
            return record["image"], text
        except BadExample as error:
            return error
        except Exception as error:
            return BadExample("bad_record", error)

    def _image(self, part: Part, data: Any, text: Text, rng: np.random.Generator) -> np.ndarray:
        named = isinstance(text.answer, int) and 0 <= text.answer < len(self._names)
        answer = self._names[text.answer] if named else text.answer
        may_flip = not _SIDED.search(f"{text.text} {answer}")
        found = multi_image.decode_images(data, self._num_images, part.augment.least_side)
        return multi_image.stacked(part.augment.alike(found, rng, may_flip))


def lengths(ids: Int32[np.ndarray, "b l"], tokenizer: Tokenizer) -> Int[np.ndarray, " b"]:
    """How many ids of each text come before its end."""
    return (ids != tokenizer.pad_id).sum(axis=1) - 1
