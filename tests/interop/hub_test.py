"""Downloads and uploads, against a hub on loopback."""

import errno
import json

import huggingface_hub
import pytest
from etils import epath
from hub_server import hub_server
from huggingface_hub.utils import _http

import coca_jax
from coca_jax import cli
from coca_jax.errors import UserError
from coca_jax.interop import hub
from coca_jax.interop.tower_facts import read_facts

SMALL = {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": b"x" * 5_000, "a.md": b""}


@pytest.fixture
def server(tmp_path):
    with hub_server(str(tmp_path / "cache")) as running:
        running.repositories["org/small"] = dict(SMALL)
        yield running


@pytest.fixture
def no_waiting(monkeypatch):
    """Retries at once."""
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_configuration_and_weights_are_downloaded_once(server):
    folder = hub.download("hf-hub:org/small")
    assert names(folder) == SMALL.keys() - {"a.md"}
    assert (folder / "open_clip_pytorch_model.bin").read_bytes() == b"x" * 5_000
    weights = [path for _, path in server.requests if path.endswith(".bin")]
    commit = server.commit("org/small")
    assert weights and all(f"/resolve/{commit}/" in path for path in weights)
    server.requests.clear()
    assert hub.download("hf-hub:org/small@v1") == folder
    assert {method for method, _ in server.requests} == {"HEAD"}


def test_safetensors_are_preferred_and_shards_are_complete(server):
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    shards = {"1.safetensors": b"1", "2.safetensors": b"2", "3.safetensors": b"3"}
    shards["open_clip_model.safetensors.index.json"] = json.dumps(index).encode()
    server.repositories["org/shards"] = shards
    assert names(hub.download("hf-hub:org/shards")) == shards.keys() - {"3.safetensors"}
    server.repositories["org/shards"]["open_clip_model.safetensors"] = b"whole"
    assert names(hub.download("hf-hub:org/shards")) == {"open_clip_model.safetensors"}


@pytest.mark.parametrize("shard", ["../../x", "/etc/passwd", "a\\..\\b"])
def test_shards_outside_of_a_repository_are_refused(server, shard):
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    server.repositories["org/bad"] = {"model.safetensors.index.json": index}
    with pytest.raises(UserError, match="names files outside of its folder"):
        hub.download("hf-hub:org/bad")
    assert not [path for _, path in server.requests if "passwd" in path or ".." in path]


def test_the_configuration_of_another_kind_of_model_comes_along(server):
    config = {"model_type": "clip", "vision_config": {"num_attention_heads": 3}}
    files = {"model.safetensors": b"x", "config.json": json.dumps(config).encode()}
    files["preprocessor_config.json"] = b'{"image_mean": [0.5, 0.5, 0.5]}'
    server.repositories["org/clip"] = files
    facts = read_facts(epath.Path(hub.download("hf-hub:org/clip")))
    assert facts.heads["image_encoder"] == 3 and facts.activations["image_encoder"] == "quick_gelu"
    assert facts.pixels["mean"] == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match=r"its config\.json is that of another model, 'clip'"):
        coca_jax.load("hf-hub:org/clip")


def test_the_files_of_a_tokenizer_that_is_named_come_along(server):
    config = {"model_cfg": {"text_cfg": {"hf_tokenizer_name": "org/words"}}}
    files = {"open_clip_config.json": json.dumps(config).encode(), "tokenizer.json": b"{}"}
    server.repositories["org/words"] = SMALL | files
    assert "tokenizer.json" in names(hub.download("hf-hub:org/words"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/none", "there is no such repository of models at http.*log in by `hf auth login`"),
        ("org/small@v2", "the repository has no revision 'v2'"),
        ("org/gated", "is gated: accept its conditions at http.*/org/gated, and log in by"),
        ("org/words", "holds no weights: none of open_clip_model.safetensors, "),
        ("small", "should be hf-hub:ORG/NAME or"),
        ("org/small/a.md", "should be hf-hub:ORG/NAME or"),
    ],
)
def test_errors_say_what_is_missing(server, name, said):
    server.repositories |= {"org/gated": SMALL, "org/words": {"a.md": b""}}
    server.gated.add("org/gated")
    with pytest.raises(UserError, match=said):
        hub.download(f"hf-hub:{name}")


def test_a_token_opens_a_gated_repository(server, monkeypatch):
    server.repositories["org/gated"] = SMALL
    server.gated.add("org/gated")
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(UserError, match=r"is gated: .* use another token"):
        hub.download("hf-hub:org/gated")
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert names(hub.download("hf-hub:org/gated")) == SMALL.keys() - {"a.md"}


def test_offline_the_cache_is_used(server, monkeypatch):
    folder = hub.download("hf-hub:org/small")
    server.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.download("hf-hub:org/small") == folder
    with pytest.raises(UserError, match=r"is not in the cache .*HF_HUB_OFFLINE forbids"):
        hub.download("hf-hub:org/new")
    assert not server.requests


def test_a_full_disk_is_not_the_hubs_fault(server, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    said = "cannot be kept in the cache: .*/cache: No space left on device"
    with pytest.raises(UserError, match=said):
        hub.download("hf-hub:org/small")


@pytest.mark.usefixtures("no_waiting")
def test_a_hub_that_does_not_answer_is_said_once_and_the_cache_is_used(server):
    folder = hub.download("hf-hub:org/small")
    server.requests.clear()
    server.status = 503
    assert hub.download("hf-hub:org/small") == folder
    with pytest.raises(UserError, match=r"not in the cache, and http.* it answers with the status"):
        hub.download("hf-hub:org/new")
    assert len({path for _, path in server.requests}) <= 3  # after one file, no other is asked for


@pytest.mark.usefixtures("no_waiting")
def test_a_hub_that_is_not_there(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(
        UserError, match=r"is not in the cache, and http://127.* does not give it: "
    ):
        hub.download("hf-hub:org/small")


@pytest.mark.usefixtures("no_waiting")
def test_an_upload_to_a_hub_that_is_not_there(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"me/model: http://127.* does not answer: "):
        hub.upload("me/model", {"a": b""}, private=False)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'coca_jax\[hub\]'"):
        coca_jax.load("hf-hub:org/small")


def test_a_file_of_that_name_is_a_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_name("hf-hub:model")
    (tmp_path / "hf-hub:model").mkdir()
    assert not hub.is_hub_name("hf-hub:model")


def test_files_are_uploaded(server, monkeypatch, tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 5_000)
    files = {"small": b"content", "large.bin": str(tmp_path / "weights"), "README.md": b"new"}
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert hub.upload("me/model", files, private=True) == f"{server.address}/me/model"
    uploaded = {"small": b"content", "large.bin": b"x" * 5_000, "README.md": b"new"}
    assert server.repositories["me/model"] == uploaded
    assert server.private == {"me/model"}
    # What people wrote there stays.
    server.repositories["me/model"]["README.md"] = b"theirs"
    hub.upload("hf-hub:me/model", files | {"small": b"other"}, private=False)
    changed = {"small": b"other", "README.md": b"theirs"}
    assert server.repositories["me/model"] == uploaded | changed
    with pytest.raises(UserError, match=r"refuses access \(403\)"):
        hub.upload("you/model", files, private=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"refuses access \(401\): log in by"):
        hub.upload("me/model", files, private=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids to upload"):
        hub.upload("me/model", files, private=False)
    with pytest.raises(UserError, match="uploads go to the main branch"):
        hub.upload("me/model@v1", files, private=False)


def test_a_public_repository_is_not_taken_for_a_private_one(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", server.token)
    server.repositories["me/open"] = {}
    with pytest.raises(UserError, match=r"--private: http.*/me/open is public already"):
        hub.upload("me/open", {"a": b"secret"}, private=True)
    assert server.repositories["me/open"] == {}
    hub.upload("me/closed", {"a": b"1"}, private=True)
    hub.upload("me/closed", {"a": b"2"}, private=True)
    assert server.repositories["me/closed"] == {"a": b"2"} and server.private == {"me/closed"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/secret/me/x.json", "x.json"),
        ("/secret/me/runs/", "runs"),
        ("C:\\secret\\x.json", "x.json"),
        ("gs://secret/runs/a", "a"),
        ("https://a.org/secret/0.tar?X-Amz-Signature=secret/1", "0.tar"),
        ("https://me:secret@a.org/b/{00..09}.tar#secret", "{00..09}.tar"),
        ("https://me:secret@a.org", "...@a.org"),
        ("hf-hub:org/name@v1", "hf-hub:org/name@v1"),
    ],
)
def test_published_names_hold_no_folders_and_no_secrets(path, name):
    assert hub.public_name(path) == name


def test_a_step_of_a_model_on_the_hub_is_refused(server):
    with pytest.raises(UserError, match="org/small has no step 5: a model on the hub"):
        coca_jax.load("hf-hub:org/small", step=5)
    assert not server.requests


def test_commands_take_names_on_the_hub(server, tmp_path, capsys):
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}
    server.repositories["org/small"]["open_clip_config.json"] = json.dumps(config).encode()
    image = tmp_path / "a.png"
    for command in (
        ["caption", "--model", "hf-hub:org/small", str(image)],
        ["convert", "--from", "open_clip", "hf-hub:org/small", str(tmp_path / "out")],
    ):
        assert cli.main(command) == 2
        assert "it describes a CLIP (images: a ViT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
