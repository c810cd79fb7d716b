import contextlib
import os

import numpy as np
import pytest
from serve.app_test import error_of, post
from serve.conftest import LIMITS, png
from starlette.testclient import TestClient

from coca_jax.image_search import ImageIndex
from coca_jax.serve import images
from coca_jax.serve.app import make_app
from coca_jax.serve.service import Served, Service

NAMES = ["a.png", "sub/b c.png", "sub/é.png", os.fsdecode(b"sub/caf\xe9?.png")]


def shown(name):
    """A name as JSON has it: what is not UTF-8 is replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    (folder / "sub").mkdir()
    (folder / "secret.txt").write_text("secret")
    for i, name in enumerate(NAMES):
        (folder / name).write_bytes(png(i, 40 + i, 60))
    return folder


@pytest.fixture(scope="module")
def service(model, folder, tmp_path_factory):
    def embed(paths):
        pixels, errors = model.read_images(paths)
        return model.encode_image(pixels), errors

    index = ImageIndex(tmp_path_factory.mktemp("index"), folder, "tiny")
    index.update(embed)
    return Service(Served(model, index=index), LIMITS)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service)) as client:
        yield client


def test_images_are_found_by_text_and_by_image(client, model, folder):
    embeddings = model.encode_image(model.preprocess([folder / name for name in NAMES]))
    text = model.encode_text(model.tokenize(["a red circle"]))[0]
    matches = post(client, "search", text="a red circle", top=2)["matches"]
    best = np.argsort(-(embeddings @ text))[:2]
    assert [one["path"] for one in matches] == [shown(NAMES[i]) for i in best]
    similarities = [one["similarity"] for one in matches]
    np.testing.assert_allclose(similarities, (embeddings @ text)[best], atol=1e-5)
    for name in NAMES:
        first = post(client, "search", files=[(folder / name).read_bytes()])["matches"][0]
        assert first["path"] == shown(name) and first["similarity"] == pytest.approx(1, abs=1e-4)
        answer = client.get(first["thumbnail"])
        assert answer.status_code == 200 and answer.headers["Content-Type"] == "image/jpeg"
        assert answer.content.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    "name", ["none.png", "secret.txt", "../indexed/a.png", "%2e%2e/indexed/a.png", "", "sub"]
)
def test_no_other_file_is_shown(client, name):
    answer = client.get(f"/v1/thumbnails/{name}")
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_a_search_has_one_query(client):
    for content in ({}, {"text": "a", "images": ["aGk="]}, {"images": ["aGk="] * 2}):
        error_of(client, "search", 422, **content)


def test_an_image_that_is_gone_is_not_found(client, folder):
    (folder / NAMES[0]).rename(folder / "moved.png")
    answer = client.get(f"/v1/thumbnails/{NAMES[0]}")
    (folder / "moved.png").rename(folder / NAMES[0])
    assert answer.status_code == 404


def test_an_image_that_has_grown_is_too_large(client, folder):
    before = (folder / NAMES[1]).read_bytes()
    (folder / NAMES[1]).write_bytes(png(0, 200, 90))
    answer = client.get(f"/v1/thumbnails/{NAMES[1]}")
    (folder / NAMES[1]).write_bytes(before)
    assert answer.status_code == 413 and "90 x 200 pixels" in answer.json()["error"]["message"]


def test_small_copies_are_kept_and_take_places(client, service, monkeypatch):
    path = f"/v1/thumbnails/{NAMES[2]}"
    first = client.get(path)
    monkeypatch.setattr(images, "decode", lambda *args: 1 / 0)
    assert client.get(path).content == first.content
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.queue):
            stack.enter_context(service.admission.admitted())
        assert client.get(path).status_code == 503
