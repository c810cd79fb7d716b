import cv2
import numpy as np
import pytest
from memory_source import MemorySource, record

from coca_jax.data.captions import CaptionMaker
from coca_jax.data.examples import BatchMaker, DataSet
from coca_jax.data.mixture import RecordRef
from coca_jax.data.packing import (
    ROWS_PER_BLOCK,
    PackingConfig,
    longest_that_fits,
    pack,
    packing_errors,
    shared_out,
)
from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.transforms.augment import Augment

BOS, EOS = 1, 2


def texts(*lengths):
    """Texts of these lengths; all ids of a text but its bos and eos say which one it is."""
    ids = np.zeros((len(lengths), 12), np.int32)
    for number, (row, length) in enumerate(zip(ids, lengths, strict=True)):
        row[:length] = [BOS, *[10 + number] * (length - 2), EOS]
    return ids


def test_long_texts_share_rows_with_short_ones():
    rows = shared_out(np.array([3, 9, 4, 8, 7, 5]), 2)
    assert [row.tolist() for row in rows] == [[1, 0], [3, 2], [4, 5]]


def test_a_row_holds_its_texts_one_after_the_other():
    lengths = [5, 3, *[4] * (2 * ROWS_PER_BLOCK - 2)]
    packed = pack(texts(*lengths), 0, PackingConfig(2, 9))
    first = packed.order[:2].tolist()
    assert first == [0, 1]
    np.testing.assert_array_equal(packed.text[0], [BOS, 10, 10, 10, EOS, BOS, 11, EOS, 0])
    np.testing.assert_array_equal(packed.segments[0], [1, 1, 1, 1, 1, 2, 2, 2, 0])
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))
    assert not packed.cut.any()


def test_every_text_is_there_once_and_in_the_order_of_its_images():
    ids = texts(*np.random.default_rng(0).integers(3, 13, 96))
    packed = pack(ids, 0, PackingConfig(4, 48))
    rows = packed.order.reshape(-1, 4)
    assert sorted(packed.order.tolist()) == list(range(96))
    for text, segments, row in zip(packed.text, packed.segments, rows, strict=True):
        for number, example in enumerate(row, 1):
            np.testing.assert_array_equal(text[segments == number], ids[example][ids[example] > 0])
        assert not text[segments == 0].any()
    # A block is packed by itself.
    again = pack(ids[32:64], 0, PackingConfig(4, 48))
    np.testing.assert_array_equal(again.text, packed.text[8:16])


def test_what_has_no_room_is_cut_and_counted():
    assert longest_that_fits(np.array([9, 3, 4]), 12) == 5
    ids = texts(*[12, 3] * ROWS_PER_BLOCK)
    packed = pack(ids, 0, PackingConfig(2, 10))
    row = packed.order.reshape(-1, 2)[0].tolist()
    assert row == [0, 1]
    np.testing.assert_array_equal(packed.text[0], [BOS, *[10] * 5, EOS, BOS, 11, EOS])
    assert packed.cut.tolist() == [1] * ROWS_PER_BLOCK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_length": 30}, "row_length=30 has no effect: texts_per_row=1"),
        ({"texts_per_row": 4}, "row_length=0 should be from 12 to 48, for 4 texts of at most 12"),
        ({"texts_per_row": 4, "row_length": 49}, "row_length=49 should be from 12 to 48"),
        ({"texts_per_row": 3, "row_length": 30}, "packs 24 examples at a time (8 rows), which"),
    ],
)
def test_options_that_do_not_fit(options, message):
    (error,) = packing_errors(PackingConfig(**options), 12, 64)
    assert message in error


def test_a_batch_is_the_same_for_any_number_of_processes():
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
    files = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    records = [record(file, ["x" * (i % 7 + 1)]) for i, file in enumerate(files)]
    make = BatchMaker(
        [DataSet(MemorySource(records), CaptionMaker(group="caption"), Augment((8, 8)))],
        ByteTokenizer(),
        image_size=(8, 8),
        text_length=12,
        packing=PackingConfig(2, 18),
    )

    def batch(numbers):
        rngs = [np.random.default_rng(i) for i in numbers]
        return make([RecordRef(0, i, 0) for i in numbers], rngs)

    whole, parts = batch(range(32)), [batch(range(i, i + 16)) for i in (0, 16)]
    for name in ("image", "text", "text_segment_ids", "group", "cut_text", "bad_image"):
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, whole[name], err_msg=name)
    assert whole["text"].shape == (16, 18) and len(whole["image"]) == 32
