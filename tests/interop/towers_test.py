"""Towers of other projects in our modules, against those projects' own outputs."""

import dataclasses
import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from coca_jax.errors import UserError
from coca_jax.interop.towers import is_tower_file, read_towers
from coca_jax.models import CoCa, ImageConfig, init_params
from coca_jax.models.presets import PRESETS

FOLDER = pathlib.Path(__file__).parent.parent / "fixtures/towers"
with np.load(FOLDER / "outputs.npz") as _file:
    OUTPUTS = dict(_file)
# The settings with which our image encoder computes what theirs does.
IMAGES = {
    "clip": {"class_token": True, "pre_norm": True, "patch_bias": False},
    "timm_vit": {"class_token": True, "pre_norm": False, "patch_bias": True},
    "siglip": {"class_token": False, "pre_norm": False, "patch_bias": True},
    "transformers_clip": {"class_token": True, "pre_norm": True, "patch_bias": False},
    "transformers_siglip": {"class_token": False, "pre_norm": False, "patch_bias": True},
}


def model_config(**image):
    sizes = {"size": 12, "patch": 4, "width": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 64}
    text = dataclasses.replace(
        PRESETS["tiny"].text, vocab_size=96, context_length=8, width=16, num_heads=2, mlp_dim=64
    )
    return dataclasses.replace(
        PRESETS["tiny"],
        image=ImageConfig(**(sizes | image)),
        text=text,
        pooler=dataclasses.replace(PRESETS["tiny"].pooler, num_heads=2),
        embed_dim=24,
    )


@functools.cache
def shapes(config):
    """The shapes of a model's parameters: tracing takes longest of all that is done here."""
    tree = jax.eval_shape(lambda: init_params(CoCa(config), jax.random.key(0)))
    flat = traverse_util.flatten_dict(nn.meta.unbox(tree), sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}


def read(name, config, tokenizer="clip", only=".*"):
    path = epath.Path(name if isinstance(name, pathlib.Path) else FOLDER / f"{name}.safetensors")
    return read_towers(path, config, shapes(config), tokenizer, only)


def params(towers, config):
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes(config).items()}
    rows = towers.params.get("decoder/positions")
    changed = {} if rows is None else {"decoder/positions": np.concatenate([rows, rows[:1]])}
    flat = {name: jnp.asarray(value) for name, value in (zeros | towers.params | changed).items()}
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_encoder_computes_the_same(name):
    config = model_config(**IMAGES[name])
    towers = read(name, config)
    tokens = CoCa(config).apply(
        {"params": params(towers, config)}, jnp.asarray(OUTPUTS["pixels"]), method="image_tokens"
    )
    # The epsilon of LayerNorm is 1e-5 in ours and in CLIP, 1e-6 in timm and SigLIP.
    np.testing.assert_allclose(tokens, OUTPUTS[f"{name}/image"], atol=2e-4)
    assert towers.grid == (3, 3)
    assert towers.params.keys() >= {
        path for path in shapes(config) if path.startswith("image_encoder/")
    }


@pytest.mark.parametrize("name", ["clip", "transformers_clip"])
def test_the_text_encoder_computes_the_same(name):
    config = model_config(**IMAGES[name])
    towers = read(name, config)
    assert towers.context_length == 8 and len(towers.titles) == 2

    def features(model, ids):
        hidden, _ = model.decoder.unimodal_features(ids)
        return model.decoder.cls_norm(hidden)

    found = CoCa(config).apply(
        {"params": params(towers, config)}, jnp.asarray(OUTPUTS["ids"]), method=features
    )
    real = OUTPUTS["ids"] != 0  # the mask of our padding is another
    np.testing.assert_allclose(found[real], OUTPUTS[f"{name}/text"][real], atol=2e-5)
    projection = load_file(FOLDER / f"{name}.safetensors")
    projection = projection.get("text_projection", projection.get("text_projection.weight"))
    expected = projection if projection.shape == (16, 24) else projection.T
    np.testing.assert_array_equal(towers.params["text_projection"], expected)


def test_what_has_no_place_is_left_out_and_named():
    config = model_config(class_token=False, patch_bias=True)
    towers = read("clip", config)
    expected = {"visual.class_embedding", "visual.ln_pre.weight", "visual.ln_pre.bias"}
    assert set(towers.left_out) == expected | {"visual.proj", "logit_scale"}
    assert not {"image_encoder/class_token", "logit_scale"} & towers.params.keys()
    stored = load_file(FOLDER / "clip.safetensors")["visual.positional_embedding"]
    np.testing.assert_array_equal(towers.params["image_encoder/positions"], stored[1:])


def test_a_class_token_that_is_not_there_has_no_position():
    towers = read("siglip", model_config(class_token=True))
    table = towers.params["image_encoder/positions"]
    assert table.shape == (10, 16) and not table[0].any() and table[1:].any()
    assert "image_encoder/class_token" not in towers.params


def test_wrappers_and_half_precision(tmp_path):
    stored = load_file(FOLDER / "timm_vit.safetensors")
    wrapped = {f"module._orig_mod.{n}": v.astype(np.float16) for n, v in stored.items()}
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    config = model_config(**IMAGES["timm_vit"])
    expected = read("timm_vit", config).params
    found = read(tmp_path / "wrapped.safetensors", config)
    assert found.params.keys() == expected.keys()
    for name, value in found.params.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3)


def test_only_the_tower_that_is_asked_for():
    config = model_config(**IMAGES["clip"])
    towers = read("clip", config, only="image_encoder/.*")
    assert {name.split("/")[0] for name in towers.params} == {"image_encoder"}
    assert "token_embedding.weight" in towers.left_out and not towers.unfit


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_layers": 3}, "its image encoder: 2 layers there, 3 now"),
        ({"mlp_dim": 32}, r"image_encoder/transformer/.*: \[16, 64\] there, \[16, 32\] now"),
        ({"patch": 6}, r"image_encoder/patch_embedding/kernel: \[48, 16\] there, \[108, 16\] now"),
    ],
)
def test_a_tower_that_does_not_fit_is_not_taken(changes, said):
    config = model_config(**(IMAGES["clip"] | changes))
    towers = read("clip", config)
    assert len(towers.unfit) == 1 and not any("image_encoder" in name for name in towers.params)
    with pytest.raises(UserError, match=said):
        read("clip", config, only="image_encoder/.*")


def test_nothing_that_fits_is_one_error_with_every_reason():
    with pytest.raises(UserError) as caught:
        read("clip", model_config(num_layers=1), tokenizer="sentencepiece")
    assert str(caught.value).splitlines() == [
        "its image encoder: 2 layers there, 1 now",
        "  its text encoder: it reads CLIP's tokens, and "
        "config.data.tokenizer.kind='sentencepiece'",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks.0.ls1.gamma": np.ones(16)}, "its layers have ls1.gamma, which ours lack"),
        ({"blocks.1.norm1.weight": None}, "it lacks blocks.1.norm1.weight"),
        ({"pos_embed": np.zeros((1, 8, 16))}, "8 image positions are not those of a square"),
        ({"norm.weight": np.full(16, np.nan)}, "NaN or infinity is in 1 of the weights"),
    ],
)
def test_weights_that_are_no_tower_of_ours(changes, said, tmp_path):
    tensors = load_file(FOLDER / "timm_vit.safetensors") | changes
    save_file(
        {n: np.float32(v) for n, v in tensors.items() if v is not None}, tmp_path / "a.safetensors"
    )
    with pytest.raises(UserError, match=said):
        read(tmp_path / "a.safetensors", model_config(**IMAGES["timm_vit"]))


def test_other_weights_are_named(tmp_path):
    save_file({"encoder.weight": np.zeros((2, 2))}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="holds no tower of a known kind: it holds 1 tensor"):
        read(tmp_path / "a.safetensors", model_config())
    coca = FOLDER.parent / "open_clip/square.safetensors"
    with pytest.raises(UserError, match="it holds a CoCa's weights: put their open_clip_config"):
        read(coca, model_config())


@pytest.mark.parametrize(
    ("count", "said"),
    [(7, "holds no tower of a known kind"), (8, "its image encoder: 1 layers there")],
)
def test_eight_names_are_a_tower(count, said, tmp_path):
    stored = load_file(FOLDER / "clip.safetensors")
    names = sorted(name for name in stored if name.startswith("visual.transformer.resblocks.0."))
    save_file({name: stored[name] for name in names[:count]}, tmp_path / "few.safetensors")
    with pytest.raises(UserError, match=said):
        read(tmp_path / "few.safetensors", model_config(), only="image_encoder/.*")


def folder_with(tmp_path, name, content):
    stored = load_file(FOLDER / "clip.safetensors")
    save_file(stored, tmp_path / "open_clip_model.safetensors")
    (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 12}
SETTINGS = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": {"width": 16, "heads": 2}}


def test_a_configuration_says_what_the_weights_do_not(tmp_path):
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    content = {"model_cfg": SETTINGS | {"quick_gelu": True}, "preprocess_cfg": pixels}
    path = epath.Path(folder_with(tmp_path, "open_clip_config.json", content))
    assert is_tower_file(path) and is_tower_file(path / "open_clip_model.safetensors")
    towers = read(tmp_path, model_config(**IMAGES["clip"]))
    assert towers.differs == (
        "activation of the image encoder's MLPs: quick_gelu there, gelu now",
        "activation of the text encoder's MLPs: quick_gelu there, gelu now",
        "config.model.image.mean: (0.1, 0.2, 0.3) there, (0.5, 0.5, 0.5) now",
    )
    assert read("clip", model_config(**IMAGES["clip"])).differs == (
        "attention heads: the weights do not say how many; the run's numbers are taken",
    )


@pytest.mark.parametrize(
    ("kind", "vision", "activation"),
    [
        ("clip", {}, "quick_gelu"),
        ("siglip", {}, "gelu_pytorch_tanh"),
        ("clip", {"hidden_act": "relu"}, "relu"),
        ("clip", {"hidden_act": "gelu"}, ""),
    ],
)
def test_the_configuration_of_transformers_names_activation_and_pixels(
    kind, vision, activation, tmp_path
):
    content = {"model_type": kind, "vision_config": vision | {"num_attention_heads": 2}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    folder_with(tmp_path, "preprocessor_config.json", {"image_std": [0.25, 0.5, 0.5]})
    said = f"activation of the image encoder's MLPs: {activation} there, gelu now"
    differs = read(tmp_path, model_config(**IMAGES["clip"]), only="image_encoder/.*").differs
    assert [line for line in differs if "activation" in line] == [said] * bool(activation)
    assert "config.model.image.std: (0.25, 0.5, 0.5) there, (0.5, 0.5, 0.5) now" in differs


def test_only_the_settings_of_what_is_taken_are_compared(tmp_path):
    parts = {"image_encoder": ("vision_config", 2), "decoder": ("text_config", 2)}
    content = {"model_type": "clip"} | {n: {"num_attention_heads": h} for n, h in parts.values()}
    content["vision_config"]["hidden_act"] = "gelu"  # and the texts' is CLIP's quick_gelu
    (tmp_path / "config.json").write_text(json.dumps(content))
    folder_with(tmp_path, "preprocessor_config.json", {"image_std": [0.1] * 3})
    config = model_config(**IMAGES["clip"])
    image, text = (read(tmp_path, config, only=f"{tower}/.*").differs for tower in parts)
    assert [line.partition(":")[0] for line in image] == [
        "config.model.image.mean",
        "config.model.image.std",
    ]
    assert [line.partition(":")[0] for line in text] == ["activation of the text encoder's MLPs"]


def test_ways_to_resize_do_not_forbid_a_tower(tmp_path):
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "nearest"}
    content = {"model_cfg": SETTINGS, "preprocess_cfg": pixels}
    folder_with(tmp_path, "open_clip_config.json", content)
    assert not read(tmp_path, model_config(**IMAGES["clip"])).differs


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("has_position", [True, False])
def test_positions_of_a_grid_that_is_not_square(class_token, has_position, tmp_path):
    """3 x 5 patches and a class token are 16 positions, as 4 x 4 patches would be."""
    name = "clip" if class_token else "siglip"
    stored = load_file(FOLDER / f"{name}.safetensors")
    [key] = [key for key in stored if key.endswith(("positional_embedding", "pos_embed"))][-1:]
    key = "visual.positional_embedding" if class_token else key
    count = 15 + (class_token and has_position)
    table = np.arange(1, count + 1, dtype=np.float32)[:, None] * np.ones(16, np.float32)
    stored[key] = table.reshape(*stored[key].shape[:-2], count, 16)
    save_file(stored, tmp_path / "open_clip_model.safetensors")
    vision = VISION | {"image_size": [12, 20]}
    settings = {"model_cfg": SETTINGS | {"vision_cfg": vision}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    config = model_config(**(IMAGES[name] | {"grid_width": 5}))
    towers = read(tmp_path, config, only="image_encoder/.*")
    assert towers.grid == (3, 5)
    new = [0] * (class_token and not has_position)
    found = towers.params["image_encoder/positions"]
    np.testing.assert_array_equal(found[:, 0], [*new, *range(1, count + 1)])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "open_clip_config.json",
            {"model_cfg": SETTINGS | {"vision_cfg": VISION | {"head_width": 4}}},
            "its image encoder: 4 attention heads there, 2 now",
        ),
        (
            "open_clip_config.json",
            {"model_cfg": SETTINGS | {"text_cfg": {"heads": 2, "no_causal_mask": True}}},
            "its text encoder: its tokens attend to later ones, and ours do not",
        ),
        (
            "config.json",
            {"model_type": "clip", "vision_config": {"num_attention_heads": 1}},
            "its image encoder: 1 attention heads there, 2 now",
        ),
        (
            "config.json",
            {"model_type": "siglip", "text_config": {"num_attention_heads": 2}},
            "its text encoder: its tokens attend to later ones, and ours do not",
        ),
    ],
)
def test_a_configuration_may_forbid_a_tower(name, content, said, tmp_path):
    folder_with(tmp_path, name, content)
    only = "image_encoder/.*" if "image" in said else "decoder/.*"
    with pytest.raises(UserError, match=said):
        read(tmp_path, model_config(**IMAGES["clip"]), only=only)


def test_a_malformed_configuration(tmp_path):
    content = {"model_cfg": {"vision_cfg": 3, "text_cfg": {}}}
    folder_with(tmp_path, "open_clip_config.json", content)
    with pytest.raises(UserError, match=r"the configuration in .* cannot be read"):
        read(tmp_path, model_config())


def test_workdirs_and_cocas_are_no_tower_files(tmp_path):
    assert not is_tower_file(epath.Path(tmp_path)) and not is_tower_file(epath.Path("/none"))
    folder_with(tmp_path, "open_clip_config.json", {"model_cfg": SETTINGS | {"multimodal_cfg": {}}})
    assert not is_tower_file(epath.Path(tmp_path))
    (tmp_path / "open_clip_config.json").unlink()
    assert is_tower_file(epath.Path(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    assert not is_tower_file(epath.Path(tmp_path))
