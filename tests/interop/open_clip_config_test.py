import dataclasses

import pytest

from coca_jax.data.transforms.images import Resizing
from coca_jax.errors import UserError
from coca_jax.interop.open_clip_config import model_config, preprocess_settings, settings
from coca_jax.interop.open_clip_config import preprocessing as preprocessing_of
from coca_jax.models.presets import CLIP_MEAN, CLIP_STD


def test_what_is_written_is_read(theirs):
    model = model_config(theirs.settings)
    assert model_config(settings(model)) == model
    assert (model.image.mean, model.image.std) == (CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize(("width", "mlp_dim"), [(896, 3904), (1408, 1920), (1408, 6272)])
def test_the_ratio_of_an_mlp_gives_its_width_back(square, width, mlp_dim):
    model = model_config(square.settings)
    image = dataclasses.replace(model.image, width=width, mlp_dim=mlp_dim, num_heads=2)
    written = settings(dataclasses.replace(model, image=image))
    assert int(width * written["vision_cfg"]["mlp_ratio"]) == mlp_dim
    assert model_config(written).image.mlp_dim == mlp_dim


def test_a_hubs_configuration_holds_the_model_and_the_pixels(square):
    preprocessing = {"mean": [0, 0.25, 0.5], "std": 1, "interpolation": "bilinear", "mode": None}
    preprocessing |= {"resize_mode": "longest", "fill_color": [7, 7, 7]}
    hub = {"model_cfg": square.settings, "preprocess_cfg": preprocessing}
    model = model_config(hub)
    assert (model.image.mean, model.image.std) == ((0.0, 0.25, 0.5), (1.0, 1.0, 1.0))
    assert Resizing.of(model.image) == Resizing("longest", "bilinear", 7)
    assert preprocessing_of(hub | {"preprocess_cfg": preprocess_settings(model.image)}) == {
        name: getattr(model.image, name) for name in preprocessing_of(hub)
    }
    assert model.text == model_config(square.settings).text
    random = model_config(hub | {"preprocess_cfg": {"interpolation": "random"}})
    assert Resizing.of(random.image) == Resizing()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("resize_mode", "stretch", "should be one of shortest, longest, squash"),
        ("interpolation", "lanczos", "should be one of bicubic, bilinear, random"),
        ("fill_color", 256, "should be a level of gray"),
        ("fill_color", [1, 2, 3], "should be a level of gray"),
        ("mode", "L", "mode='L' should be 'RGB'"),
    ],
)
def test_preprocessing_that_is_not_supported_is_refused(square, key, value, expected):
    with pytest.raises(UserError, match=expected):
        model_config({"model_cfg": square.settings, "preprocess_cfg": {key: value}})


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "a CLIP \\(images: a ViT, texts: a transformer\\)"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "a CLIP \\(images: a ResNet"),
        ({"init_logit_bias": -10}, "a SigLIP \\(images: a ViT"),
        (
            {"vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}},
            "a SigLIP \\(images: vit_base_patch16_siglip_224",
        ),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "texts: roberta-base"),
    ],
)
def test_another_model_is_named(changes, kind):
    settings = {"embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": {}} | changes
    with pytest.raises(UserError, match=f"describes .*{kind}.*no CoCa: it lacks 'multimodal_cfg'"):
        model_config({"model_cfg": settings})


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
    with pytest.raises(UserError) as error:
        model_config(square.settings | {"embed_dim": 24})
    width = square.settings["text_cfg"]["width"]
    assert str(error.value) == f"text_cfg.width={width} and embed_dim=24 should agree"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pool_type": "avg"}, "vision_cfg: pool_type='avg' should be 'tok'"),
        ({"patch_size": 8, "image_size": [32, 36]}, r"image_size=\[32, 36\] should be a multiple"),
    ],
)
def test_images_that_ours_would_embed_otherwise_are_refused(square, changes, said):
    with pytest.raises(UserError, match=said):
        model_config(square.settings | {"vision_cfg": square.settings["vision_cfg"] | changes})


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


@pytest.mark.parametrize("wrong", [True, [1, 2], ["a", 1, 2], [float("nan"), 1, 1], "abc"], ids=str)
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
