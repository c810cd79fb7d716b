import numpy as np
import pytest

from coca_jax.data.captions import CaptionMaker, caption_option_errors
from coca_jax.data.errors import BadExample
from coca_jax.data.texts import to_captions
from coca_jax.errors import UserError


def record(captions=(), labels=(), **fields):
    return {
        "image": b"",
        "captions": list(captions),
        "label": -1,
        "labels": list(labels),
        "fields": fields,
    }


def make(found, visit=0, seed=0, **options):
    return CaptionMaker(**options)(found, visit, np.random.default_rng(seed)).text


def kind(found, **options):
    with pytest.raises(BadExample) as error:
        make(found, **options)
    return error.value.kind


def test_one_caption_is_sampled_or_the_first_taken_or_each_in_turn():
    found = record(["a", "b", "c"])
    drawn = [make(found, seed=seed) for seed in range(300)]
    assert all(70 < drawn.count(caption) < 130 for caption in "abc")
    assert {make(found, seed=seed, captions="first") for seed in range(20)} == {"a"}
    in_turn = [make(found, visit=visit, seed=visit, captions="all") for visit in range(6)]
    assert in_turn == ["a", "b", "c", "a", "b", "c"]


def test_a_question_is_drawn_with_its_answer():
    found = record(["a"], questions=["how many?", "what?"], answers=["two", ["red", "blue"]])
    drawn = [make(found, seed=seed, captions="questions") for seed in range(400)]
    assert 150 < drawn.count("how many? two") < 250
    assert 70 < drawn.count("what? red") < 130 and 70 < drawn.count("what? blue") < 130
    assert kind(record(["a"]), captions="questions") == "bad_text"
    assert kind(record(questions=["a", "b"], answers=["c"]), captions="questions") == "bad_text"


def test_the_group_is_a_caption_a_label_or_a_field():
    def group(found, **options):
        return CaptionMaker(**options)(found, 0, np.random.default_rng(0)).group

    found = record([" a cat "], ["pet", "cat"], product=7, sizes=[])
    assert group(found) is None
    assert group(found, group="caption", template="{caption}, {product}") == "a cat"
    assert group(found, group="label") == group(record(["other"], ["cat", "pet"]), group="label")
    assert group(found, group="label") != group(record(["other"], ["cat"]), group="label")
    assert group(found | {"labels": [], "label": 3}, group="label") == "[3]"
    assert group(found, group="product") == "[7]"
    for name in ("sizes", "absent"):
        assert kind(found, group=name) == "bad_record"
    assert kind(record(["a"]), group="label") == "bad_record"


def test_groups_of_a_mixture_are_shared_where_they_mean_the_same():
    def groups(found, name):
        makers = [CaptionMaker(group=name, data_set=data_set) for data_set in ("a", "b", "a")]
        return [make(found, 0, np.random.default_rng(0)).group for make in makers]

    numbered = record(["a cat"], [], product=7) | {"label": 3}
    for name in ("label", "product"):
        first, second, again = groups(numbered, name)
        assert first == again != second
    for found, name in ((numbered, "caption"), (record(["a cat"], ["cat"]), "label")):
        assert len(set(groups(found, name))) == 1


def test_a_wrong_caption_is_that_of_the_caption_that_is_drawn():
    def pair(found, seed=0, **options):
        text = CaptionMaker(**options)(found, 0, np.random.default_rng(seed))
        return text.text, text.negative

    found = record(["a", " ", "b"], wrong=["not a", "x", None], title="T")
    drawn = {pair(found, seed, negatives="wrong") for seed in range(40)}
    assert drawn == {("a", "not a"), ("b", None)}
    options = {"captions": "first", "negatives": "wrong"}
    assert pair(found, template="{title}: {caption}", **options) == ("T: a", "T: not a")
    assert pair(found)[1] is None and pair(record(["a"]), **options) == ("a", None)
    # TFDS gives the only value of a list by itself.
    assert pair(record(["a"], wrong="not a"), **options) == ("a", "not a")
    assert pair(record([], ["cat"]), prompts=("a {}",), **options) == ("a cat", None)
    stored = to_captions(["a", None, "b"]) | {"fields": {"wrong": ["x", None, "z"]}}
    drawn = {pair(record() | stored, seed, negatives="wrong") for seed in range(40)}
    assert drawn == {("a", "x"), ("b", "z")}
    for wrong in (["x"], ["x", "y", "z", "u"], [3, "x", "y"]):
        assert kind(record(["a", "b", "c"], wrong=wrong), **options) == "bad_text"


def test_blank_captions_are_not_drawn():
    assert {make(record(["", " a\n", "  "]), seed=seed) for seed in range(20)} == {"a"}


def test_labels_are_text_where_there_is_no_caption():
    prompts = ("a photo of {}.", "a drawing of {}")
    found = record(labels=["dog", "cat", "hat"])
    texts = {make(found, seed=seed, prompts=prompts) for seed in range(300)}
    assert len(texts) == 2 * 6
    assert "a photo of hat, dog, cat." in texts and "a drawing of cat, hat, dog" in texts
    assert make(record(["told"], ["dog"]), prompts=prompts) == "told"
    assert kind(found) == "bad_text" and kind(record(), prompts=prompts) == "bad_text"


def test_a_template_joins_fields_and_the_caption():
    found = record(["a dog"], title="Rex", year=1999, empty="", none=None)
    assert make(found, template="{title}: {caption} ({year:>6})") == "Rex: a dog (  1999)"
    assert make(record(title="Rex"), template="{title}") == "Rex"
    for template in ("{author}", "{empty}", "{none} {caption}", "{title[first]}"):
        assert kind(found, template=template) == "bad_text"
    assert kind(record(title="Rex"), template="{caption}") == "bad_text"


def test_half_a_character_is_no_text():
    assert kind(record(["\ud83d"])) == "bad_text"


def test_too_short_and_too_long_captions_are_left_out():
    assert make(record(["four"]), min_characters=4, max_characters=4) == "four"
    assert kind(record(["four"]), min_characters=5) == "filtered_length"
    assert kind(record(["four"]), max_characters=3) == "filtered_length"
    assert kind(record(["x" * 50_000])) == "filtered_length"


@pytest.mark.parametrize(
    "row, holds",
    [
        (("similarity", ">=", 0.3), True),
        (("similarity", ">", 0.3), False),
        (("similarity", "<", 0.3), False),
        (("language", "in", ("en", "de")), True),
        (("language", "not in", ("en", "de")), False),
        (("language", "==", "en"), True),
        (("language", "!=", "en"), False),
        (("nothing", ">=", 1), False),
        (("missing", "<=", 1), False),
    ],
)
def test_filters_ask_fields(row, holds):
    found = record(["a"], similarity=0.3, language="en", nothing=None)
    if holds:
        assert make(found, filters=(row,)) == "a"
    else:
        assert kind(found, filters=(row,)) == "filtered_field"
        assert kind(found, filters=(("language", "==", "en"), row)) == "filtered_field"


def test_what_is_left_out_says_why():
    with pytest.raises(BadExample, match=r"no 'langage' among language"):
        make(record(["a"], language="en"), filters=(("langage", "==", "en"),))
    with pytest.raises(BadExample, match=r"language='en' is not == 'de'"):
        make(record(["a"], language="en"), filters=(("language", "==", "de"),))


@pytest.mark.parametrize(
    "options",
    [
        {"filters": (("f", ["=="], 0.5),)},
        {"filters": (("f", "in", 0.5),)},
        {"filters": (("f", "in", "en"),)},
        {"filters": (("f", "=="),)},
        {"filters": ((3, "==", 3),)},
        {"prompts": ("a photo",)},
        {"template": "{}"},
        {"template": "{0} {title}"},
        {"template": "{title!x}"},
        {"template": "{title"},
    ],
)
def test_no_option_that_makes_no_sense_is_accepted(options):
    with pytest.raises(UserError, match=next(iter(options))):
        CaptionMaker(**options)


def test_prompts_must_be_texts():
    assert "3 should have {}" in caption_option_errors("first", "", (3,), ())[0]


def test_wrong_options_are_named_all_at_once():
    with pytest.raises(UserError) as error:
        CaptionMaker(captions="some", template="{a", prompts=("a photo",), filters=(("a", "~", 1),))
    lines = str(error.value).splitlines()
    assert [line.split("=")[0].split(":")[0] for line in lines] == [
        "captions",
        "template",
        "prompts",
        "filters",
    ]
    assert "sampled, first, all" in lines[0] and "not in" in lines[3]


def test_questions_are_kept_apart_from_their_answers():
    asked = record([], questions="how many?", answers="two")  # TFDS gives lists of one like this
    maker = CaptionMaker(captions="questions")
    assert maker(asked, 0, np.random.default_rng(0))[:3] == ("how many? two", "how many?", "two")
    other = record([], hypotheses=["a cat"], judgements=[["neutral"]])
    maker = CaptionMaker(captions="questions", questions=("hypotheses", "judgements"))
    assert maker(other, 0, np.random.default_rng(0))[:3] == ("a cat neutral", "a cat", "neutral")


def test_labels_are_answers_unless_they_are_not_to_be_known():
    found = record(["a cat"]) | {"label": 3}
    rng = np.random.default_rng(0)
    assert CaptionMaker()(found, 0, rng)[:3] == ("a cat", "", 3)
    assert CaptionMaker(use_labels=False)(found, 0, rng)[:3] == ("a cat", "", None)
    assert CaptionMaker(captions="none")(record([]) | {"label": 3}, 0, rng)[:3] == ("", "", 3)


def test_options_that_do_not_go_together():
    assert len(caption_option_errors("questions", "{a}", (), (), ("one",))) == 2


def test_what_is_no_text_is_named():
    broken = record(["a"]) | {"no_text": "{'en': 'x'} is not text"}
    with pytest.raises(BadExample, match=r"bad_text \(\{'en': 'x'\} is not text"):
        make(broken)
    assert make(broken, captions="none") == ""
    for caption, reason in (
        ("a\0b", "NUL"),
        ("\u200b", "nothing to read"),
        ("\ud800", "surrogate"),
    ):
        with pytest.raises(BadExample, match=reason):
            make(record([caption]))
    for question, answer in ((5, "a"), ("a", {"b": 1}), ("a", float("nan")), ("a", [["b"]])):
        asked = record([], questions=[question], answers=[answer])
        with pytest.raises(BadExample, match=r"bad_text .* is not text"):
            make(asked, captions="questions")
    assert kind(record(["a"], title=float("nan")), template="{title}") == "bad_text"
