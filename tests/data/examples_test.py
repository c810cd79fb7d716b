import numpy as np
import pytest

from coca_jax.data import images
from coca_jax.data.examples import BatchMaker
from coca_jax.data.tokenizers import ByteTokenizer
from coca_jax.errors import UserError

TOKENIZER = ByteTokenizer()


def png(image):
    import cv2

    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def two_sided():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    return image


def maker(source, **options):
    """Makes the example of one index, which must not depend on the rest of the batch."""
    make_batch = BatchMaker(source, TOKENIZER, image_size=(8, 8), text_length=24, **options)

    def make(index, rng):
        return {key: value[0] for key, value in make_batch([index], [rng]).items()}

    return make


def text(example):
    return TOKENIZER.decode(example["text"][None])[0]


def test_a_row_of_a_batch_does_not_depend_on_the_others(plain_source):
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    good = {"image": png(noise), "captions": ["one", "another", "a third"]}
    source = [good, {"image": b"broken", "captions": ["never seen"]}, *plain_source[:4], good]
    options = {"image_size": (8, 8), "text_length": 24, "min_crop_area": 0.3, "flip": True}
    make = BatchMaker(source, TOKENIZER, **options)

    def rngs():
        return [np.random.default_rng(seed) for seed in range(6)]

    indices = [0, 1, 6, 1, 3, 0]
    batch = make(indices, rngs())
    assert batch["bad_image"][[1, 3]].min() >= 1 and batch["bad_image"][[0, 2, 4, 5]].max() == 0
    for row, (index, rng) in enumerate(zip(indices, rngs(), strict=True)):
        alone = make([index], [rng])
        assert batch.keys() == alone.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key][row], alone[key][0])


def test_an_example_is_the_image_and_its_caption(plain_source):
    example = maker(plain_source)(5, np.random.default_rng(0))
    np.testing.assert_array_equal(example["image"], np.full((8, 8, 3), 5, np.uint8))
    assert text(example) == "picture 5"
    assert (example["bad_image"], example["bad_text"]) == (0, 0)


def test_captions_are_sampled_evenly_or_the_first_is_taken():
    source = [{"image": png(two_sided()), "captions": ["a", "b", "c"]}]
    rng = np.random.default_rng(0)
    drawn = [text(maker(source)(0, rng)) for _ in range(300)]
    assert all(70 < drawn.count(caption) < 130 for caption in "abc")
    assert {text(maker(source, captions="first")(0, rng)) for _ in range(20)} == {"a"}


@pytest.mark.parametrize(
    "caption, flips",
    [
        ("a circle", True),
        ("at the top left", False),
        ("RIGHT, there", False),
        ("bright leftovers", True),
    ],
)
def test_flipped_unless_the_caption_names_a_side(caption, flips):
    make = maker([{"image": png(two_sided()), "captions": [caption]}], flip=True)
    rng = np.random.default_rng(0)
    flipped = [make(0, rng)["image"][0, 0, 0] == 255 for _ in range(200)]
    assert (70 < sum(flipped) < 130) if flips else not any(flipped)


def test_crops_only_if_asked():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    source = [{"image": png(image), "captions": ["noise"]}]
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(maker(source)(0, rng)["image"], image)
    assert (maker(source, min_crop_area=0.2)(0, rng)["image"] != image).any()


@pytest.mark.parametrize("min_crop_area", [1.0, 0.5])
def test_images_need_not_be_square(plain_source, min_crop_area):
    options = {"image_size": (4, 12), "text_length": 24, "min_crop_area": min_crop_area}
    batch = BatchMaker(plain_source, TOKENIZER, **options)([3], [np.random.default_rng(0)])
    np.testing.assert_array_equal(batch["image"], np.full((1, 4, 12, 3), 3, np.uint8))


def test_bad_records_are_replaced_and_counted(plain_source):
    good = plain_source[7]
    source = [
        {"image": b"broken", "captions": ["never seen"]},
        {"image": good["image"], "captions": []},
        {"image": good["image"], "captions": ["  "]},
        good,
    ]
    make = maker(source)
    for index, kind in ((0, "bad_image"), (1, "bad_text"), (2, "bad_text")):
        example = make(index, np.random.default_rng(index))
        assert text(example) == "picture 7" and example[kind] >= 1
        again = make(index, np.random.default_rng(index))
        assert all((again[key] == example[key]).all() for key in example)


def test_substitutes_come_from_everywhere(plain_source):
    source = [{"image": b"", "captions": ["x"]}, *plain_source[1:]]
    drawn = {text(maker(source)(0, np.random.default_rng(seed))) for seed in range(200)}
    assert len(drawn) == len(source) - 1


def test_a_data_set_without_a_good_record_is_an_error():
    make = maker([{"image": b"broken", "captions": ["x"]}] * 3)
    with pytest.raises(UserError, match=r"101 bad examples in a row.*'bad_image': 101"):
        make(0, np.random.default_rng(0))


@pytest.mark.parametrize("options", [{"captions": "all"}, {"min_crop_area": 0.0}])
def test_wrong_options_are_named(plain_source, options):
    with pytest.raises(UserError, match=next(iter(options))):
        maker(plain_source, **options)


def test_bad_example_says_its_kind():
    assert images.BadExample("bad_text").kind == "bad_text"


class Damaged(list):
    """A source of which some records cannot be read."""

    def __init__(self, records, damaged):
        super().__init__(records)
        self.damaged = damaged

    def __getitem__(self, index):
        if index in self.damaged:
            raise RuntimeError("wrong checksum")
        return super().__getitem__(index)


def test_a_record_that_cannot_be_read_is_replaced_and_counted(plain_source):
    make = maker(Damaged(plain_source, {3}))
    first, again = (make(3, np.random.default_rng(0)) for _ in range(2))
    assert first["bad_record"] >= 1 and first["bad_image"] == first["bad_text"] == 0
    np.testing.assert_array_equal(first["image"], again["image"])


def test_a_source_of_which_nothing_can_be_read_says_why(plain_source):
    make = maker(Damaged(plain_source, set(range(len(plain_source)))))
    with pytest.raises(UserError, match=r"bad_record.*RuntimeError: wrong checksum"):
        make(0, np.random.default_rng(0))
