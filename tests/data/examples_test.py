import cv2
import numpy as np
import pytest
from memory_source import MemorySource, record

from coca_jax.data.captions import CaptionMaker
from coca_jax.data.errors import ERROR_KINDS
from coca_jax.data.examples import MAX_SUBSTITUTES, BatchMaker, DataSet, lengths
from coca_jax.data.mixture import RecordRef
from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.tokenizers.clip_bpe import ClipTokenizer
from coca_jax.data.transforms.augment import Augment
from coca_jax.errors import UserError

TOKENIZER = ByteTokenizer()
SIZE = (8, 8)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def two_sided():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    return image


def part(records, captions=None, left_out=(), **augment):
    source = records if isinstance(records, MemorySource) else MemorySource(records)
    return DataSet(source, CaptionMaker(**captions or {}), Augment(SIZE, **augment), left_out)


def batch_maker(*parts):
    return BatchMaker(parts, TOKENIZER, image_size=SIZE, text_length=24)


def maker(records, **options):
    """Makes the example of one index, which must not depend on the rest of the batch."""
    make_batch = batch_maker(part(records, **options))

    def make(index, rng, visit=0):
        made = make_batch([RecordRef(0, index, visit)], [rng])
        return {key: value if key == "errors" else value[0] for key, value in made.items()}

    return make


def text(example):
    return TOKENIZER.decode(example["text"][None])[0]


def test_pairs_of_a_group_have_the_same_64_bits():
    image = png(two_sided())
    labeled = part([record(image, [text], product=i) for i, text in enumerate("aab")])
    labeled = labeled._replace(make_caption=CaptionMaker(group="caption"))
    make = batch_maker(labeled, part([record(image, ["a"])]))
    picks = [RecordRef(0, 0, 0), RecordRef(0, 1, 0), RecordRef(0, 2, 0), RecordRef(1, 0, 0)]
    batch = make([*picks, picks[-1]], [np.random.default_rng(seed) for seed in range(5)])
    groups = batch["group"]
    assert groups.shape == (5, 2) and groups.dtype == np.int32
    same = (groups[:, None] == groups[None]).all(axis=-1)
    # The last two are one record of a data set without groups, drawn twice.
    assert np.argwhere(same & ~np.eye(5, dtype=bool)).tolist() == [[0, 1], [1, 0]]
    alone = make(picks[1:2], [np.random.default_rng(9)])
    np.testing.assert_array_equal(alone["group"], groups[1:2])
    assert "group" not in batch_maker(part([record(image, ["a"])]))(
        picks[:1], [np.random.default_rng(0)]
    )


def test_wrong_captions_are_a_text_of_their_own_and_padding_where_there_is_none():
    records = [record(png(two_sided()), ["a"], wrong=["b"]), record(png(two_sided()), ["c"])]
    data_set = part(records, {"negatives": "wrong"})
    make = BatchMaker([data_set], TOKENIZER, image_size=SIZE, text_length=24, negatives=True)
    rngs = [np.random.default_rng(seed) for seed in range(2)]
    batch = make([RecordRef(0, 0, 0), RecordRef(0, 1, 0)], rngs)
    assert TOKENIZER.decode(batch["negative_text"][:1]) == ["b"]
    assert TOKENIZER.decode(batch["text"]) == ["a", "c"]
    assert (batch["negative_text"][1] == TOKENIZER.pad_id).all()


def test_an_image_whose_wrong_caption_says_left_is_not_flipped():
    data = record(png(two_sided()), ["up"], wrong=["left"])
    for options, flipped in (({"negatives": "wrong"}, False), ({}, True)):
        make = batch_maker(part([data], options, flip=True))
        rows = [make([RecordRef(0, 0, 0)], [np.random.default_rng(s)]) for s in range(20)]
        assert any(row["image"][0, 0, 0, 0] for row in rows) == flipped


def test_a_row_of_a_batch_does_not_depend_on_the_others(plain_source):
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    good = record(png(noise), ["one", "another", "a third"])
    records = [good, record(b"broken", ["never seen"]), *plain_source[:4], good]
    make = batch_maker(part(records, min_crop_area=0.3, flip=True))

    def rngs():
        return [np.random.default_rng(seed) for seed in range(6)]

    picks = [RecordRef(0, index, 0) for index in (0, 1, 6, 1, 3, 0)]
    batch = make(picks, rngs())
    assert batch["bad_image"][[1, 3]].min() >= 1 and batch["bad_image"][[0, 2, 4, 5]].max() == 0
    faults = []
    for row, (pick, rng) in enumerate(zip(picks, rngs(), strict=True)):
        alone = make([pick], [rng])
        assert batch.keys() == alone.keys()
        faults += alone.pop("errors")
        for key in alone:
            np.testing.assert_array_equal(batch[key][row], alone[key][0])
    assert list(batch["errors"]) == faults


def test_an_example_is_the_image_and_its_caption(plain_source):
    example = maker(plain_source)(5, np.random.default_rng(0))
    np.testing.assert_array_equal(example["image"], np.full((8, 8, 3), 5, np.uint8))
    assert text(example) == "picture 5"
    assert all(example[kind] == 0 for kind in ERROR_KINDS) and example["errors"] == ()


def test_captions_come_in_turn_with_the_visits(plain_source):
    make = maker([record(plain_source[0]["image"], ["a", "b", "c"])], captions={"captions": "all"})
    rng = np.random.default_rng(0)
    assert [text(make(0, rng, visit)) for visit in range(4)] == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    "caption, flips",
    [
        ("a circle", True),
        ("at the top left", False),
        ("RIGHT, there", False),
        ("the leftmost cup", False),
        ("a rightmost door", False),
        ("a left-hand drive", False),
        ("a lefthand glove", False),
        ("Righthanded, he", False),
        ("the leftside door", False),
        ("turn_left", False),
        ("right_shoe", False),
        ("left2", False),
        ("TurnLeft", False),
        ("bright leftovers", True),
        ("a copyright", True),
        ("a Wright2 plane", True),
    ],
)
def test_flipped_unless_the_caption_names_a_side(caption, flips):
    make = maker([record(png(two_sided()), [caption])], flip=True)
    rng = np.random.default_rng(0)
    flipped = [make(0, rng)["image"][0, 0, 0] == 255 for _ in range(200)]
    assert (70 < sum(flipped) < 130) if flips else not any(flipped)


def test_crops_only_if_asked():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    records = [record(png(image), ["noise"])]
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(maker(records)(0, rng)["image"], image)
    assert (maker(records, min_crop_area=0.2)(0, rng)["image"] != image).any()


def test_unusable_records_are_replaced_and_counted(plain_source):
    image = plain_source[7]["image"]
    records = [
        record(b"broken", ["never seen"]),
        record(image, []),
        record(image, ["  "]),
        record(image, ["x" * 41]),
        record(image, ["picture 7"], score=0.1),
        plain_source[7] | {"fields": {"score": 0.9}},
    ]
    for one in records[:4]:
        one["fields"]["score"] = 0.5
    make = maker(records, captions={"max_characters": 40, "filters": (("score", ">", 0.2),)})
    kinds = ("bad_image", "bad_text", "bad_text", "filtered_length", "filtered_field")
    for index, kind in enumerate(kinds):
        example = make(index, np.random.default_rng(index))
        assert text(example) == "picture 7" and example[kind] >= 1
        assert example["errors"][0] == ("shard 0", kind)
        assert len(example["errors"]) == sum(example[kind] for kind in ERROR_KINDS)
        again = make(index, np.random.default_rng(index))
        assert again.pop("errors") == example.pop("errors")
        assert all((again[key] == example[key]).all() for key in example)


def test_records_of_the_list_are_left_out(plain_source):
    left_out = np.array([3, 5, 8], np.int64)
    make = maker(plain_source, left_out=left_out)
    for index in range(10):
        example = make(index, np.random.default_rng(index))
        assert bool(example["filtered_duplicate"]) == (index in left_out)
        assert text(example) not in [f"picture {i}" for i in left_out]


@pytest.mark.parametrize("num_images", [1, 2])
def test_a_bad_image_draws_nothing(num_images, plain_source):
    """A substitute does not depend on when the image was seen to be bad."""
    jpeg = cv2.imencode(".jpg", two_sided())[1].tobytes()
    for data in (jpeg[:-2], jpeg[: len(jpeg) // 2] + b"\xff\xd8" + jpeg[-2:], b"broken"):
        rows = [record([data] * num_images, ["bad"]), *plain_source[1:]]
        make = BatchMaker(
            [part(rows, min_crop_area=0.5)],
            TOKENIZER,
            image_size=SIZE,
            text_length=24,
            num_images=num_images,
        )
        for seed in range(5):
            batch = make([RecordRef(0, 0, 0)], [np.random.default_rng(seed)])
            rng = np.random.default_rng(seed)
            rng.integers(1)  # which caption
            assert batch["bad_image"] == 1
            index = rng.integers(len(rows))
            assert TOKENIZER.decode(batch["text"]) == [f"picture {index}"]


def test_substitutes_come_from_everywhere_in_the_same_data_set(plain_source):
    broken = MemorySource([record(b"", ["x"]), *plain_source[1:12]])
    make = batch_maker(part(plain_source[12:]), part(broken))
    drawn = set()
    for seed in range(150):
        batch = make([RecordRef(1, 0, 0)], [np.random.default_rng(seed)])
        drawn |= set(TOKENIZER.decode(batch["text"]))
    assert drawn == {f"picture {i}" for i in range(1, 12)}


def test_secrets_in_the_url_of_a_shard_are_not_counted(plain_source, monkeypatch):
    monkeypatch.setattr(MemorySource, "shard", lambda *_: "https://me:pw@h/a.tar?key=1")
    made = maker(MemorySource(plain_source, damaged={13}))(13, np.random.default_rng(0))
    assert made["errors"][0] == ("https://...@h/a.tar?...", "bad_record")


def test_a_data_set_without_a_good_record_is_an_error():
    make = maker([record(b"broken", ["x"])] * 3)
    counts = rf"{MAX_SUBSTITUTES + 1} unusable examples in a row \({{'bad_image': 1001}}\)"
    with pytest.raises(UserError, match=rf"{counts}, the last one in shard 0: bad_image"):
        make(0, np.random.default_rng(0))


def test_a_record_that_cannot_be_read_is_replaced_and_counted(plain_source):
    make = maker(MemorySource(plain_source, damaged={13}))
    first, again = (make(13, np.random.default_rng(0)) for _ in range(2))
    assert first["bad_record"] >= 1 and first["bad_image"] == first["bad_text"] == 0
    assert first["errors"][0] == ("shard 1", "bad_record")
    np.testing.assert_array_equal(first["image"], again["image"])


def test_a_source_of_which_nothing_can_be_read_says_why(plain_source):
    make = maker(MemorySource(plain_source, damaged=set(range(len(plain_source)))))
    with pytest.raises(UserError, match=r"bad_record.*RuntimeError: wrong checksum"):
        make(0, np.random.default_rng(0))


def asked(question, answer):
    return record(png(two_sided()), [], questions=[question], answers=[answer])


def head_batch(records, captions, classes=("yes", "no"), tokenizer=TOKENIZER, **options):
    make_batch = BatchMaker(
        [part(records, captions)],
        tokenizer,
        image_size=SIZE,
        text_length=24,
        classes=classes,
        **options,
    )
    picks = [RecordRef(0, i, 0) for i in range(len(records))]
    return make_batch(picks, [np.random.default_rng(i) for i in range(len(picks))])


def test_a_head_reads_the_question_and_not_the_answer():
    made = head_batch(
        [asked("is it?", "no"), asked("or?", "yes"), asked("who?", "me")], {"captions": "questions"}
    )
    assert TOKENIZER.decode(made["text"]) == ["is it? no", "or? yes", "who? me"]
    np.testing.assert_array_equal(made["label"], [1, 0, -1])  # "me" is none of the classes
    shown = [
        TOKENIZER.decode(row[None, :n])[0]
        for row, n in zip(made["text"], made["prefix_length"], strict=True)
    ]
    assert shown == ["is it?", "or?", "who?"]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, ClipTokenizer()])
def test_a_head_reads_a_question_without_the_white_space_around_it(tokenizer):
    made = head_batch([asked(" is it?\n", " no ")], {"captions": "questions"}, tokenizer=tokenizer)
    plain = head_batch([asked("is it?", "no")], {"captions": "questions"}, tokenizer=tokenizer)
    for key in ("text", "prefix_length", "label"):
        np.testing.assert_array_equal(made[key], plain[key])
    shown = made["text"][:, : made["prefix_length"][0]]
    assert "".join(tokenizer.decode(shown)[0].split()) == "isit?" and made["label"] == [1]


@pytest.mark.parametrize("text", ["wow!~", "one<end_of_text>two", "", "x " * 40])
def test_a_text_is_as_long_as_its_ids_before_its_end(text):
    ids = ClipTokenizer().encode([text], 24)
    own = ClipTokenizer().to_ids([text], 24)[0]
    assert lengths(ids, ClipTokenizer()).tolist() == [1 + min(len(own), 22)]


def test_a_head_reads_all_of_a_caption_and_labels_are_numbers():
    rows = [record(png(two_sided()), ["a cat"], label) for label in (1, -1)]
    made = head_batch(rows, {})
    np.testing.assert_array_equal(made["label"], [1, -1])
    np.testing.assert_array_equal(
        made["prefix_length"], [6, 6]
    )  # begin and five bytes, without the end
    with pytest.raises(UserError, match=r"labels 0 to 1, and .* has the label 2"):
        head_batch([record(png(two_sided()), ["a"], 2)], {})  # all of them are bad
    made = head_batch([record(png(two_sided()), ["a"], label) for label in (0, 2, 0)], {})
    assert made["label"].tolist() == [0, 0, 0] and made["bad_record"].sum() >= 1


def test_a_question_that_fills_the_text_is_read_as_far_as_it_is_there():
    made = head_batch([asked("x" * 40 + "?", "no")], {"captions": "questions"})
    assert made["prefix_length"][0] == 23 and made["text"][0, 22] == 3 + ord("x")


def test_pictures_of_an_example_are_changed_alike():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    rows = [record([png(noise), png(noise), png(noise[::-1].copy())], ["a"])]
    make_batch = BatchMaker(
        [part(rows, min_crop_area=0.3, color_jitter=(0.4, 0.4, 0.4, 0.1))],
        TOKENIZER,
        image_size=SIZE,
        text_length=24,
        num_images=3,
    )
    image = make_batch([RecordRef(0, 0, 0)], [np.random.default_rng(1)])["image"]
    assert image.shape == (1, 3, *SIZE, 3)
    np.testing.assert_array_equal(image[0, 0], image[0, 1])
    assert (image[0, 0] != image[0, 2]).any()


def test_blank_pictures_show_nothing():
    made = head_batch([asked("is it?", "no")], {"captions": "questions"}, blank_images=True)
    assert (made["image"] == 128).all() and made["label"] == [1]


def test_two_classes_of_one_name_are_told_apart_by_their_numbers_only():
    classes = ("crane", "dog", "crane")
    rows = [record(png(two_sided()), ["a"], label) for label in (2, 0)]
    assert head_batch(rows, {}, classes)["label"].tolist() == [2, 0]
    questions = [asked("what?", "dog"), asked("what?", "crane"), asked("what?", "dog")]
    made = head_batch(questions, {"captions": "questions"}, classes)
    assert made["label"].tolist() == [1, 1, 1] and made["bad_record"].sum() >= 1
