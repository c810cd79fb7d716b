import pytest

from coca_jax.errors import UserError
from coca_jax.interop.open_clip_config import model_config, settings
from coca_jax.models.presets import CLIP_MEAN, CLIP_STD


def test_what_is_written_is_read(theirs):
    model = model_config(theirs.settings)
    assert model_config(settings(model)) == model
    assert (model.image.mean, model.image.std) == (CLIP_MEAN, CLIP_STD)


def test_a_hubs_configuration_holds_the_model_and_the_pixels(square):
    preprocessing = {"mean": [0, 0.25, 0.5], "std": [1, 1, 1], "interpolation": "bicubic"}
    hub = {"model_cfg": square.settings, "preprocess_cfg": preprocessing}
    model = model_config(hub)
    assert (model.image.mean, model.image.std) == ((0.0, 0.25, 0.5), (1.0, 1.0, 1.0))
    assert model.text == model_config(square.settings).text
    with pytest.raises(
        UserError, match="preprocess_cfg: resize_mode='squash' should be 'shortest'"
    ):
        model_config(hub | {"preprocess_cfg": {"resize_mode": "squash"}})


def test_settings_that_ours_lacks_are_named(square):
    strange = square.settings | {"quick_gelu": True}
    strange["text_cfg"] = strange["text_cfg"] | {"pad_id": 1, "no_causal_mask": True}
    with pytest.raises(UserError) as error:
        model_config(strange)
    assert len(str(error.value).splitlines()) == 4
    for heads in (2, 3):
        other = square.settings | {"text_cfg": square.settings["text_cfg"] | {"heads": heads}}
        with pytest.raises(UserError, match="should agree"):
            model_config(other)


@pytest.mark.parametrize("section", ["vision_cfg", "text_cfg", "multimodal_cfg", "embed_dim"])
def test_a_configuration_of_another_model_lacks_something(square, section):
    with pytest.raises(UserError, match=f"lacks '{section}'"):
        model_config({k: v for k, v in square.settings.items() if k != section})


NONSENSE = [-1, 0, 2**40, True, "8", 1.5, [], [4], {}, [[3, 4], 5], float("nan")]


@pytest.mark.parametrize("wrong", NONSENSE, ids=str)
def test_values_that_are_no_numbers_are_refused_by_key(square, wrong):
    for section, key in {
        "vision_cfg": "layers",  # of a ResNet, there are four
        "text_cfg": "vocab_size",
        "multimodal_cfg": "width",
    }.items():
        changed = square.settings | {section: square.settings[section] | {key: wrong}}
        with pytest.raises(UserError, match=rf"{section}\.{key}=.* should be a positive whole"):
            model_config(changed)


@pytest.mark.parametrize("wrong", [5, "a", [1], True], ids=str)
def test_sections_that_are_none_are_refused(square, wrong):
    for changed in (
        wrong,
        {"model_cfg": wrong},
        square.settings | {"text_cfg": wrong},
        {"model_cfg": square.settings, "preprocess_cfg": wrong},
    ):
        with pytest.raises(UserError, match="should hold settings"):
            model_config(changed)


@pytest.mark.parametrize("wrong", [5, [1, 2], ["a", 1, 2], [float("nan"), 1, 1], "abc"], ids=str)
def test_pixels_have_three_numbers(square, wrong):
    hub = {"model_cfg": square.settings, "preprocess_cfg": {"mean": wrong}}
    with pytest.raises(UserError, match=r"preprocess_cfg\.mean=.* should be three numbers"):
        model_config(hub)


def test_numbers_are_of_any_kind_but_not_of_any_size(square):
    vision = square.settings["vision_cfg"]
    ratio = {"vision_cfg": vision | {"mlp_ratio": 2}}
    assert model_config(square.settings | ratio).image.mlp_dim == 2 * vision["width"]
    huge = {"vision_cfg": vision | {"mlp_ratio": 10**400}}  # no float holds it
    with pytest.raises(UserError, match=r"mlp_ratio=10*.* should be a positive number"):
        model_config(square.settings | huge)
