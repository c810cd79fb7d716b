"""Examples: makes of records what the model trains on."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64

from coca_jax import patches
from coca_jax.data.answer_normalization import normalized
from coca_jax.data.captions import CaptionMaker, Text
from coca_jax.data.errors import CUT_TEXT, ERROR_KINDS, BadExample
from coca_jax.data.exclude_list import contains
from coca_jax.data.mixture import RecordRef
from coca_jax.data.packing import PackingConfig, pack
from coca_jax.data.sources import Record, Source
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.data.transforms import multi_image
from coca_jax.data.transforms.augment import Augment
from coca_jax.errors import UserError
from coca_jax.io import http
from coca_jax.patches import Target

# For one row. Of a data set of which 98% is unusable, one row in 600 million needs more.
MAX_SUBSTITUTES = 1000

# Between a letter and anything else, and within TurnLeft.
_EDGE = r"(?:(?<![^\W\d_])|(?![^\W\d_])|(?-i:(?<=[a-z])(?=[A-Z])))"
_SIDED = re.compile(rf"{_EDGE}(left|right)(wards?|most|hand(ed)?|side)?{_EDGE}", re.IGNORECASE)


class DataSet(NamedTuple):
    """A source, and what becomes of its records."""

    source: Source
    make_caption: CaptionMaker
    augment: Augment
    excluded: Int64[np.ndarray, " m"] | tuple[()] = ()  # sorted: records that are never used
    # All records, neighbors next to each other; empty: there is none.
    order: Int64[np.ndarray, " n"] | tuple[()] = ()


class DataError(NamedTuple):
    """A replaced example: the reason, and its place."""

    shard: str
    kind: str  # one of ERROR_KINDS


class BatchMaker:
    """Makes batches of records; a row is a pure function of its (reference, rng).

    Args:
      data_sets: those that a `RecordRef` refers to.
      tokenizer: makes the text's ids.
      image_size: height and width in pixels, or a budget of patches.
      text_length: ids of a text, bos and eos included.
      num_images: images of an example.
      classes: names of a head's classes; none: there is no head.
      blank_images: whether all images are gray.
      packing: how texts share rows.
      negatives: whether a data set gives wrong captions.
    """

    def __init__(
        self,
        data_sets: Sequence[DataSet],
        tokenizer: Tokenizer,
        *,
        image_size: Target,
        text_length: int,
        num_images: int = 1,
        classes: Sequence[str] = (),
        blank_images: bool = False,
        packing: PackingConfig = PackingConfig(),
        negatives: bool = False,
    ):
        self.data_sets, self.tokenizer = data_sets, tokenizer
        self._num_images, self._blank, self._packing = num_images, blank_images, packing
        self._negatives = negatives
        self._image_size, self._text_length = image_size, text_length
        self._classes = {name: number for number, name in enumerate(classes)}
        self._names = tuple(classes)
        self._grouped = any(each.make_caption.group for each in data_sets)
        self._repeated = {name for name in classes if self._names.count(name) > 1}

    def __call__(
        self,
        refs: Sequence[RecordRef],
        rngs: Sequence[np.random.Generator],
        length: int | None = None,
    ) -> dict[str, Any]:
        """Makes {"image": uint8 [b, h, w, 3], "text": int32 [b, l], each error kind: int32 [b]}.

        If num_images > 1, "image" is [b, num_images, h, w, 3]; of a budget of patches it is
        `Patches`, of at most `length` of them if that is given. For a head there are also int32 [b]
        "label" (-1: none of the classes) and "prefix_length", the number of ids of the text that
        the head may read. Where a data set has groups, there is "group", int32 [b, 2]; where one
        gives wrong captions, there is "negative_text", int32 [b, l], only padding for texts that
        have none.

        Packed texts are int32 [rows, t], and there is "text_segment_ids" [rows, t], the number of
        each token's text in its row, 0 at padding; and the count "cut_text" [rows]. All else is in
        the order of the texts, row by row.

        An unusable record is replaced by one of the same data set, drawn by the `rng` of its row.
        The kinds count how many were; "errors" is a tuple with a `DataError` for each.

        Raises:
          UserError: MAX_SUBSTITUTES substitutes in a row were unusable, too.
        """
        # One step for all rows, then the next one: its data stay in the CPU's caches.
        pairs = [self._read(ref, rng) for ref, rng in zip(refs, rngs, strict=True)]
        target = self._image_size
        if length is not None:
            target = dataclasses.replace(target, length=length)
        image = patches.room(len(pairs), target, self._num_images)
        counts = {kind: np.zeros(len(pairs), np.int32) for kind in ERROR_KINDS}
        errors: list[DataError] = []
        texts: list[Text] = []
        for row, (ref, rng, pair) in enumerate(zip(refs, rngs, pairs, strict=True)):
            pixels, text, replaced = self._usable(ref, rng, pair, target)
            patches.put(image, row, pixels)
            texts.append(text)
            errors += replaced
            for error in replaced:
                counts[error.kind][row] += 1
        if self._blank:
            image = patches.filled(image, multi_image.GRAY)
        inputs = {"image": image, **self.text_inputs(texts), **counts, "errors": tuple(errors)}
        if self._grouped:
            # Random where a pair is a group of its own: 64 bits that no other pair has.
            keys = [
                rng.bytes(8) if text.group is None else text.group
                for text, rng in zip(texts, rngs, strict=True)
            ]
            inputs["group"] = group_ids(keys)
        return inputs if self._packing.texts_per_row == 1 else self._packed(inputs)

    def _packed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        order, text, segments, cut = pack(inputs["text"], self.tokenizer.pad_id, self._packing)
        inputs = {k: x[order] if isinstance(x, patches.Images) else x for k, x in inputs.items()}
        return inputs | {"text": text, "text_segment_ids": segments, CUT_TEXT: cut}

    def text_inputs(self, texts: Sequence[Text]) -> dict[str, np.ndarray]:
        """Makes {"text": int32 [b, l]} of texts, and what else there is of each.

        That is "negative_text", and for a head "label" and "prefix_length"; see `__call__`.

        Raises:
          BadExample: a label is none that the head can have.
        """
        ids = self.tokenizer.encode([text.text for text in texts], self._text_length)
        inputs = {"text": ids}
        if self._negatives:
            negatives = [text.negative for text in texts]
            ids_of_negatives = self.tokenizer.encode(
                [n or "" for n in negatives], self._text_length
            )
            ids_of_negatives[[n is None for n in negatives]] = self.tokenizer.pad_id
            inputs["negative_text"] = ids_of_negatives
        return inputs | (self._head_inputs(texts, ids) if self._classes else {})

    def _usable(
        self,
        ref: RecordRef,
        rng: np.random.Generator,
        pair: tuple[Any, Text] | BadExample,
        target: Target,
    ) -> tuple[np.ndarray, Text, list[DataError]]:
        """The image and the text of a record or its substitute, and why others were not used."""
        data_set, errors = self.data_sets[ref.source], []
        for _ in range(MAX_SUBSTITUTES + 1):
            state = rng.bit_generator.state
            try:
                if isinstance(pair, BadExample):
                    raise pair
                return self._image(data_set, *pair, rng, target), pair[1], errors
            except BadExample as error:
                last = error
                # The substitute does not depend on when the image was seen to be bad.
                rng.bit_generator.state = state
                errors.append(DataError(http.shown(data_set.source.shard(ref.index)), error.kind))
                ref = ref._replace(index=int(rng.integers(len(data_set.source))))
                pair = self._read(ref, rng)
        counts = dict(Counter(error.kind for error in errors))
        raise UserError(
            f"the data set is bad: {MAX_SUBSTITUTES + 1} unusable examples in a row ({counts}), "
            f"the last one in {errors[-1].shard}: {last}"
        )

    def _head_inputs(
        self, texts: Sequence[Text], ids: Int32[np.ndarray, "b l"]
    ) -> dict[str, np.ndarray]:
        """A head's label of each text, and the length of the prefix that it may read."""
        questions = [text.question or text.text for text in texts]
        question_ids = self.tokenizer.encode(questions, self._text_length)
        # A question is followed by its answer, or by the end; ids after that may be equal again.
        equal = np.cumprod(question_ids == ids, axis=1).sum(axis=1)
        prefix = np.minimum(equal, lengths(question_ids, self.tokenizer))
        label = np.array([self._label(text.answer) for text in texts], np.int32)
        return {"label": label, "prefix_length": prefix.astype(np.int32)}

    def _label(self, answer: str | int | None) -> int:
        """The number of the head's class; -1: none of them.

        Raises:
          BadExample: it is a number that no class has, or a name that several have.
        """
        if isinstance(answer, str):
            if answer in self._repeated:
                raise BadExample(
                    "bad_record",
                    f"its label {answer!r} is the name of more than one of config.head.classes",
                )
            number = self._classes.get(answer)
            # Lists of classes have answers as the VQA challenge spells them.
            return self._classes.get(normalized(answer), -1) if number is None else number
        if answer is None or answer < len(self._names):
            return -1 if answer is None else answer
        raise BadExample(
            "bad_record",
            f"config.head.classes are {len(self._names)}, for labels 0 to "
            f"{len(self._names) - 1}, and an example of config.data has the label {answer}",
        )

    def _read(self, ref: RecordRef, rng: np.random.Generator) -> tuple[Any, Text] | BadExample:
        """The encoded image, or images, and the text of a record; or why there are none.

        Whatever a reader raises for a damaged record makes it a bad example.
        """
        source, make_caption, _, excluded, _ = self.data_sets[ref.source]
        try:
            if contains(excluded, ref.index):
                return BadExample("filtered_duplicate")
            record: Record = source[ref.index]
            text = make_caption(record, ref.epoch, rng)
            if self._classes:
                self._label(text.answer)  # raises what is wrong with it
            return record["image"], text
        except BadExample as error:
            return error
        except Exception as error:
            return BadExample("bad_record", error)

    def _image(
        self, data_set: DataSet, data: Any, text: Text, rng: np.random.Generator, target: Target
    ) -> np.ndarray:
        named = isinstance(text.answer, int) and 0 <= text.answer < len(self._names)
        answer = self._names[text.answer] if named else text.answer
        may_flip = not _SIDED.search(f"{text.text} {answer} {text.negative or ''}")
        selected = multi_image.select_images(data, self._num_images)
        augment = data_set.augment
        if augment.image_size != target:
            augment = dataclasses.replace(augment, image_size=target)
        return multi_image.stacked(augment.alike(selected, rng, may_flip))


def group_ids(keys: Sequence[str | bytes]) -> Int32[np.ndarray, "b 2"]:
    """64 bits that stand for each key, as two numbers; bytes are these bits already."""
    parts = [
        hashlib.blake2b(key.encode(), digest_size=8).digest() if isinstance(key, str) else key
        for key in keys
    ]
    return np.frombuffer(b"".join(parts), np.int32).reshape(-1, 2)


def lengths(ids: Int32[np.ndarray, "b l"], tokenizer: Tokenizer) -> Int[np.ndarray, " b"]:
    """The number of ids of each text before its end.

    A text may spell out CLIP's eos, and the id of CLIP's padding is that of a `!`.
    """
    after = np.argmax(ids[:, ::-1] == tokenizer.eos_id, axis=1)
    return ids.shape[1] - 1 - after
