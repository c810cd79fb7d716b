"""The stream of images as they are: of the step's number alone, for any number of processes."""

import itertools

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, record

from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.captions import CaptionMaker
from coca_jax.data.examples import BatchMaker, DataSet
from coca_jax.data.mixture import Mixture
from coca_jax.data.packing import PackingConfig
from coca_jax.data.pipeline import TrainStream, evaluation_batches
from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.transforms.augment import Augment
from coca_jax.data.transforms.images import decode
from coca_jax.patches import PatchBudget, join

LENGTHS = (12, 5)
BUDGET = PatchBudget(4, max(LENGTHS))


def png(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


SIZES = [(8, 40), (40, 8), (16, 16), (1, 90), (30, 20)]
SOURCE = MemorySource([record(png(*size, i), [f"{i}"]) for i, size in enumerate(SIZES)])


def stream(process_index=0, process_count=1, lengths=LENGTHS, packing=None, **augment):
    data_set = DataSet(SOURCE, CaptionMaker(), Augment(BUDGET, **augment))
    options = {"packing": packing} if packing else {}
    return TrainStream(
        Mixture({"": len(SOURCE)}, {"": 0.0}, 0),
        BatchMaker([data_set], ByteTokenizer(), image_size=BUDGET, text_length=8, **options),
        batch_sizes=BatchSizes(4, lengths, 1),
        seed=0,
        process_index=process_index,
        process_count=process_count,
        threads=1,
    )


def take(stream, count, examples_seen=0):
    batches = stream.batches(examples_seen)
    result = [
        {k: batch[k] for k in ("image", "text")} for batch in itertools.islice(batches, count)
    ]
    batches.close()
    return result


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["image"].patches, other["image"].patches)
        np.testing.assert_array_equal(one["image"].grid, other["image"].grid)
        np.testing.assert_array_equal(one["text"], other["text"])


AUGMENTED = {"min_crop_area": 0.5, "flip": True, "color_jitter": (0.2, 0.2, 0.2, 0.1)}


@pytest.fixture(scope="module")
def whole():
    return take(stream(**AUGMENTED), 6)


def test_each_step_has_its_length_and_as_many_images_as_keep_its_tokens(whole):
    shapes = {batch["image"].patches.shape for batch in whole}
    assert shapes == {(4, 12, 48), (8, 5, 48)}
    for batch in whole:
        rows, columns = batch["image"].grid.T
        assert (rows * columns <= batch["image"].patches.shape[1]).all() and (rows > 0).all()
        assert (batch["image"].patches[~batch["image"].mask] == 0).all()


def test_a_resumed_stream_goes_on_with_the_same_batches(whole):
    sizes = BatchSizes(4, LENGTHS, 1)
    assert_same(take(stream(**AUGMENTED), 3, sizes.examples_seen(3)), whole[3:])


def test_processes_share_each_batch(whole):
    parts = [take(stream(index, 2, **AUGMENTED), 6) for index in range(2)]
    assert_same([join(both) for both in zip(*parts, strict=True)], whole)


def test_images_are_whole_and_keep_their_aspect_ratio():
    (batch,) = take(stream(lengths=(12,)), 1, 0)
    for image, ids in zip(batch["image"], batch["text"], strict=True):
        height, width = SIZES[int(ByteTokenizer().decode(ids[None])[0])]
        assert tuple(image.grid) == BUDGET.grid(height, width)


def test_random_crops_keep_the_images_aspect_ratio():
    grids = np.concatenate(
        [b["image"].grid for b in take(stream(lengths=(12,), min_crop_area=0.3), 15)]
    )
    texts = [t for b in take(stream(lengths=(12,), min_crop_area=0.3), 15) for t in b["text"]]
    numbers = np.array([int(ByteTokenizer().decode(ids[None])[0]) for ids in texts])
    wide, tall = grids[numbers == 0], grids[numbers == 1]
    assert (wide[:, 1] > wide[:, 0]).all() and (tall[:, 0] > tall[:, 1]).all()
    assert len(np.unique(grids[numbers == 2], axis=0)) > 1


def test_packed_texts_keep_their_images():
    packing = PackingConfig(texts_per_row=2, row_length=16)
    (plain,), (packed,) = (take(stream(lengths=(12,), packing=p), 1) for p in (None, packing))
    assert packed["text"].shape == (2, 16) and len(packed["image"]) == 4
    found, expected = ({x.tobytes() for x in b["image"].patches} for b in (packed, plain))
    assert found == expected


def test_evaluation_has_the_longest_sequences_and_all_images():
    (batch,) = evaluation_batches(SOURCE, BUDGET, 8, threads=1)
    assert batch["image"].patches.shape == (5, 12, 48)
    assert [tuple(grid) for grid in batch["image"].grid] == [BUDGET.grid(*s) for s in SIZES]
    square = batch["image"][2].whole()  # 16 x 16 fits into 3 x 3 patches of 4 pixels
    assert square.shape == (12, 12, 3)
    assert abs(int(square.mean()) - int(decode(SOURCE[2]["image"]).mean())) < 4
