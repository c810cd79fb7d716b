"""Models as folders of the hub's form: written, read again, uploaded and loaded from there."""

import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import tokenizers
import yaml
from etils import epath
from hub_server import hub_server
from reference.open_clip import FOLDER, recorded
from safetensors.numpy import load_file, save_file

import coca_jax
from coca_jax import cli
from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import default_config, model_config, to_json, write_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.data.transforms import images
from coca_jax.errors import UserError
from coca_jax.evaluate.results import write_results
from coca_jax.inference import find_checkpoint
from coca_jax.interop import open_clip_config, publish
from coca_jax.interop.convert import import_open_clip
from coca_jax.interop.model_card import model_card
from coca_jax.interop.publish import export_folder, push
from coca_jax.interop.tokenizer_files import clip_json
from coca_jax.models import CoCa, init_params
from coca_jax.models.presets import as_section

MASK_NOTE = "set model.text.correct_cls_mask = True, as the model was trained with that mask"
FILES = {"open_clip_config.json", "open_clip_model.safetensors", "README.md"}


def write_run(workdir, config, step):
    """Writes the checkpoint and the configuration of a run, with random parameters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(CoCa(model_config(config)), jax.random.key(0)))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.standard_normal(leaf.shape), jnp.float32),
        nn.meta.unbox(shapes),
    )
    with CheckpointStore(workdir / "checkpoints") as store:
        store.save(step, {"params": params}, {"examples_seen": 12_345, "config": to_json(config)})
    write_config(workdir, config)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a tiny model of OpenCLIP's architecture, with a tokenizer of bytes."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    config, model = default_config(), open_clip_config.model_config(recorded("square").settings)
    text = dataclasses.replace(model.text, vocab_size=272, context_length=16)
    image = dataclasses.replace(model.image, resize_mode="longest", fill_color=9)
    model = dataclasses.replace(model, text=text, image=image)
    config.model = as_section(model)
    config.data.tokenizer.kind = "byte"
    config.data.train.format, config.data.train.path = "webdataset", "/secret/{00..09}.tar"
    config.init.path = "/secret/base"
    write_run(workdir, config, 7)
    write_results(workdir, 7, {"retrieval": {"recall@1": 0.25}}, {})
    return workdir


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """The run's folder for the hub."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    command = ["convert", "--to", "open_clip", "--license", "apache-2.0", str(workdir), str(folder)]
    assert cli.main(command) == 0
    return folder


def test_a_folder_is_written_and_read_without_a_change(workdir, exported):
    assert {path.name for path in exported.iterdir()} == FILES
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    first, second = find_checkpoint(workdir), find_checkpoint(exported)
    assert second.config.model == first.config.model
    assert second.config.data.tokenizer.kind == "byte"
    models = [coca_jax.load(path, devices=jax.devices()[:1]) for path in (workdir, exported)]
    jax.tree.map(np.testing.assert_array_equal, models[0].params, models[1].params)
    assert not models[1].config.text.shifted_cls_mask
    assert models[0].config.image == models[1].config.image


def test_the_configuration_has_what_open_clip_reads(exported):
    settings = json.loads((exported / "open_clip_config.json").read_text())
    recorded_settings = recorded("square").settings
    for section in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        expected = recorded_settings[section] | (
            {} if section == "vision_cfg" else {"vocab_size": 272, "context_length": 16}
        )
        assert expected.items() <= settings["model_cfg"][section].items()
    assert settings["preprocess_cfg"]["resize_mode"] == "longest"
    assert settings["preprocess_cfg"]["fill_color"] == 9
    with safetensors.safe_open(exported / "open_clip_model.safetensors", "numpy") as opened:
        assert set(opened.keys()) == recorded("square").tensors.keys()
        assert opened.metadata()["format"] == "pt"


def test_the_card_says_what_the_workdir_does_and_no_paths(exported):
    text = (exported / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "open_clip"
    assert metadata["pipeline_tag"] == "zero-shot-image-classification"
    for line in (
        "# model",
        "| data | {00..09}.tar |",
        "| steps | 7 of 1,000, each of 128 pairs |",
        "| examples seen | 12,345 |",
        "| losses | contrastive (weight 1), captioning (weight 2) |",
        "| began from | base |",
        "## Evaluation at step 7",
        "| retrieval recall@1 | 0.2500 |",
        f"- In OpenCLIP: {MASK_NOTE}.",
        "- In OpenCLIP: give texts as ids, since OpenCLIP finds no tokenizer of the kind byte.",
    ):
        assert line in body.splitlines()
    assert "secret" not in text


def test_the_card_of_a_run_from_urls_and_the_hub(workdir, tmp_path):
    source = find_checkpoint(workdir)
    config = source.config.copy_and_resolve_references()
    config.data.train.path = "https://a.org/secret/{0..9}.tar?X-Amz-Signature=secret"
    config.init.path = "hf-hub:org/base"
    text = model_card(dataclasses.replace(source, config=config), "x", "no", [])
    assert "| data | {0..9}.tar |" in text and "| began from | hf-hub:org/base |" in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "no"
    assert "secret" not in text
    converted = dataclasses.replace(source, folder=epath.Path(tmp_path), step=0)
    for origin, shown in {
        "hf-hub:org/b@v/1 (OpenCLIP, x.json)": "hf-hub:org/b@v/1 (OpenCLIP, x.json)",
        "w.bin (OpenCLIP, /secret/x.json)": "weights of another project",
        "/secret/w.bin (OpenCLIP, x.json)": "weights of another project",
    }.items():
        write_config(tmp_path, config, source=origin)
        assert f"| converted from | {shown} |" in model_card(converted, "x", "mit", [])


def test_a_variants_path_is_not_recorded(exported, tmp_path):
    settings = exported / "open_clip_config.json"
    weights = exported / "open_clip_model.safetensors"
    import_open_clip(weights, str(settings), tmp_path / "out")
    record = json.loads((tmp_path / "out/config.json").read_text())
    assert record["source"] == f"{weights.name} (OpenCLIP, {settings.name})"


def test_images_are_resized_as_the_folder_says(exported):
    model = coca_jax.load(exported, devices=jax.devices()[:1])
    image, file = model.config.image, FOLDER / "pixels/wide.png"
    pixels = model.preprocess([file])[0] * np.array(image.std) + np.array(image.mean)
    resizing = images.Resizing("longest", "bicubic", 9)
    expected = images.resize_for_evaluation(
        images.decode(file.read_bytes()), image.pixels, resizing
    )
    np.testing.assert_allclose(pixels * 255, expected, atol=1e-3)


def test_search_keeps_its_index_in_the_cache(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["search", "--model", str(exported), "--images", str(FOLDER / "pixels"), "a dog"]
    for indexed in ("6 added", "0 added"):
        assert cli.main(command) == 0
        printed = capsys.readouterr()
        assert indexed in printed.err and len(printed.out.splitlines()) == 5
    assert {path.name for path in exported.iterdir()} == FILES
    assert (tmp_path / "cache/coca_jax/models").is_dir()


def test_a_pushed_model_is_loaded_from_the_hub(exported, tmp_path, monkeypatch, capsys):
    (exported / "notes.txt").write_text("mine")
    with hub_server(str(tmp_path / "cache")) as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        assert cli.main(["push", "--private", str(exported), "me/tiny"]) == 0
        assert capsys.readouterr().out.strip() == f"{server.address}/me/tiny"
        (exported / "notes.txt").unlink()
        assert server.repositories["me/tiny"].keys() == FILES and server.private == {"me/tiny"}
        card = server.repositories["me/tiny"]["README.md"].decode()
        assert 'coca_jax.load("hf-hub:me/tiny")' in card and "FOLDER" not in card
        found, name = find_checkpoint(exported), "hf-hub:me/tiny"
        assert find_checkpoint(name).config.to_dict() == found.config.to_dict()
        image = str(FOLDER / "pixels/large.png")
        assert cli.main(["caption", "--model", name, "--length", "4", image]) == 0
        assert json.loads(capsys.readouterr().out)["path"] == image


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the folder, to be changed."""
    return shutil.copytree(exported, tmp_path / "copied")


def test_a_push_uploads_the_shards_of_the_index_that_is_read(copied, tmp_path, monkeypatch):
    tensors = sorted(load_file(copied / "open_clip_model.safetensors").items())
    (copied / "open_clip_model.safetensors").unlink()
    index = {}
    for folder, part in (("a", tensors[:9]), ("b", tensors[9:])):
        (copied / folder).mkdir()
        save_file(dict(part), copied / folder / "w.safetensors")
        index |= dict.fromkeys((name for name, _ in part), f"{folder}/w.safetensors")
    name = "open_clip_model.safetensors.index.json"
    (copied / name).write_text(json.dumps({"weight_map": index}))
    (copied / "other.bin.index.json").write_text("{}")
    with hub_server(str(tmp_path / "cache")) as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        push(copied, "me/shards")
        expected = {*FILES, name, "a/w.safetensors", "b/w.safetensors"}
        uploaded = server.repositories["me/shards"].keys()
        assert uploaded == expected - {"open_clip_model.safetensors"}
        find_checkpoint("hf-hub:me/shards").model.require_weights()


def test_a_push_looks_at_the_files_first(copied, tmp_path, monkeypatch):
    weights = copied / "open_clip_model.safetensors"
    tensors = load_file(weights)
    with hub_server(str(tmp_path / "cache")) as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        (copied / "README.md").write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match=r"README.md is not UTF-8"):
            push(copied, "me/bad")
        save_file(tensors | {"visual.proj": np.zeros((2, 3), np.float32)}, weights)
        with pytest.raises(UserError, match=r"1 of another shape: visual.proj \(2, 3\)"):
            push(copied, "me/bad")
        weights.write_bytes(b"garbage")
        with pytest.raises(UserError, match=r"neither a file of torch\.save nor a \.safetensors"):
            push(copied, "me/bad")
        assert not server.requests


def test_the_configuration_is_written_last(workdir, tmp_path, monkeypatch):
    def write(path, content):
        if path.name == "open_clip_config.json":
            written.extend(sorted(item.name for item in path.parent.iterdir()))
        path.write_bytes(content)

    written = []
    monkeypatch.setattr(publish, "write_whole", write)
    export_folder(workdir, tmp_path / "out")
    assert written == ["README.md", "open_clip_model.safetensors"]


def test_errors_leave_nothing(workdir, exported, tmp_path, capsys):
    out = str(tmp_path / "out")
    for command, said in {
        ("convert", "--to", "open_clip", str(workdir), str(exported)): "is not empty",
        ("convert", "--to", "open_clip", "--license", "A B", str(workdir), out): "--license 'A B'",
        ("convert", "--to", "open_clip", "--license", "mit", str(workdir), f"{out}.safetensors"): (
            "--license is for a folder"
        ),
        ("convert", "--from", "open_clip", "--license", "mit", str(exported), out): "is for --to",
        ("push", str(workdir), "me/tiny"): "it holds no open_clip_config.json",
        ("push", str(exported), "tiny"): "should be hf-hub:ORG/NAME",
        ("caption", "--model", "hf-hub:a", "a.png"): "should be hf-hub:ORG/NAME",
    }.items():
        assert cli.main(list(command)) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_clips_tokenizer_is_the_same_in_the_hubs_form():
    rows = json.loads((FOLDER / "tokens.json").read_text())
    ours = make_tokenizer("clip")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(clip_json()))
    assert theirs.get_vocab_size() == ours.vocab_size
    # Of texts that need no mending; the last token of a long one is the end in OpenCLIP.
    texts = [row for row in rows if row["text"].isascii() and row["text"].isprintable()]
    texts = [row for row in texts if not {"&", "<"} & set(row["text"])]
    assert len(texts) > 40
    for row in texts:
        assert theirs.encode(row["text"]).ids[:75] == row["ids"][:75], row


def test_a_tokenizer_json_comes_along(workdir, tmp_path, monkeypatch):
    text = json.dumps(clip_json())
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "!"}')
    config = default_config()
    model = find_checkpoint(workdir).config.model.copy_and_resolve_references()
    model.text.vocab_size = 49_408
    config.model, config.data.tokenizer.kind = model, "json"
    run = tmp_path / "run"
    write_run(run, config, 1)
    made = make_tokenizer("json", tmp_path / "tokenizer.json")
    (run / "tokenizer.json").write_bytes(type(made).standalone_file(tmp_path / "tokenizer.json"))
    assert export_folder(run, tmp_path / "out") == [MASK_NOTE]
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["pad_token"] == "!"
    source = find_checkpoint(tmp_path / "out")
    ids = source.tokenizer().encode(["a red circle"], 12)
    np.testing.assert_array_equal(ids, made.encode(["a red circle"], 12))
    with hub_server(str(tmp_path / "cache")) as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        push(tmp_path / "out", "me/json")
        uploaded = server.repositories["me/json"]
        settings = json.loads(uploaded["open_clip_config.json"])
        assert settings["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "me/json"
        assert uploaded.keys() == FILES | {"tokenizer.json", "tokenizer_config.json"}
        found = find_checkpoint("hf-hub:me/json").tokenizer()
        np.testing.assert_array_equal(found.encode(["a red circle"], 12), ids)
    (tmp_path / "out/tokenizer.json").unlink()
    with pytest.raises(
        UserError, match=r"its tokenizer is 'out', and there is no .*tokenizer.json"
    ):
        find_checkpoint(tmp_path / "out")
