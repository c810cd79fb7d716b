"""Examples: the one place where records become what the model trains on."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from coca_jax.data import images
from coca_jax.data.images import BadExample
from coca_jax.data.sources import Source
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.errors import UserError

BAD_KINDS = ("bad_record", "bad_image", "bad_text")
MAX_SUBSTITUTES = 100  # for one record; a data set of which half is bad never gets there

_SIDED = re.compile(r"\b(left|right)(wards?)?\b", re.IGNORECASE)


class BatchMaker:
    """Makes batches of a source's records; a row is a pure function of its (index, rng).

    Args:
      source: gives the records.
      tokenizer: makes the text's ids.
      image_size: height and width in pixels.
      text_length: ids of a text, bos and eos included.
      captions: "sampled" draws one of the record's captions, "first" always takes the first.
      min_crop_area: least share of the image in a random crop; 1.0 crops as in evaluation.
      flip: exchange left and right half of the time, unless the caption says left or right.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        *,
        image_size: tuple[int, int],
        text_length: int,
        captions: str = "sampled",
        min_crop_area: float = 1.0,
        flip: bool = False,
    ):
        if captions not in ("sampled", "first"):
            raise UserError(f"captions must be 'sampled' or 'first', not {captions!r}")
        if not 0 < min_crop_area <= 1:
            raise UserError(f"min_crop_area must be in (0, 1], not {min_crop_area}")
        self._source, self._tokenizer = source, tokenizer
        self._image_size, self._text_length = image_size, text_length
        self._captions, self._min_crop_area, self._flip = captions, min_crop_area, flip

    def __call__(
        self, indices: Sequence[int], rngs: Sequence[np.random.Generator]
    ) -> dict[str, np.ndarray]:
        """Makes {"image": uint8 [b, h, w, 3], "text": int32 [b, l], each of BAD_KINDS: int32 [b]}.

        A bad record is replaced by one drawn from its row's `rng`; the last count those replaced.

        Raises:
          UserError: one bad record after the other was drawn.
        """
        # All of one step after the other: what it needs stays in the CPU's caches.
        pairs = [self._read(index, rng) for index, rng in zip(indices, rngs, strict=True)]
        image = np.empty((len(pairs), *self._image_size, 3), np.uint8)
        bad = {kind: np.zeros(len(pairs), np.int32) for kind in BAD_KINDS}
        for row, rng in enumerate(rngs):
            for _ in range(MAX_SUBSTITUTES + 1):
                try:
                    if isinstance(pairs[row], BadExample):
                        raise pairs[row]
                    image[row] = self._image(*pairs[row], rng)
                    break
                except BadExample as error:
                    last = error
                    bad[error.kind][row] += 1
                    pairs[row] = self._read(int(rng.integers(len(self._source))), rng)
            else:
                counts = {kind: int(count[row]) for kind, count in bad.items()}
                raise UserError(
                    f"the data set is bad: {sum(counts.values())} bad examples in a row "
                    f"({counts}), the last one: {last}"
                )
        text = self._tokenizer.encode([caption for _, caption in pairs], self._text_length)
        return {"image": image, "text": text, **bad}

    def _read(self, index: int, rng: np.random.Generator) -> tuple[bytes, str] | BadExample:
        """The encoded image and one caption of a record, empty if it has none.

        What a reader raises for a damaged record is its own affair; here it is a bad example.
        """
        try:
            record = self._source[index]
        except Exception as error:
            return BadExample("bad_record", error)
        captions = [text for text in record["captions"] if text.strip()] or [""]
        choice = rng.integers(len(captions)) if self._captions == "sampled" else 0
        return record["image"], captions[choice]

    def _image(
        self, data: bytes, caption: str, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The image as the model sees it; raises BadExample if it or the caption is unusable."""
        if not caption.strip():
            raise BadExample("bad_text")
        image = images.decode(data)
        if self._min_crop_area < 1:
            image = images.random_resized_crop(image, self._image_size, self._min_crop_area, rng)
        else:
            image = images.resize_for_evaluation(image, self._image_size)
        if self._flip and not _SIDED.search(caption) and rng.random() < 0.5:
            image = images.flip(image)
        return image
