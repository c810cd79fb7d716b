import asyncio
import base64
import concurrent.futures
import dataclasses
import json
import logging
import re
import threading
import tracemalloc

import numpy as np
import pytest
from serve.conftest import LIMITS, encoded, png
from starlette.requests import Request
from starlette.testclient import TestClient

from coca_jax.evaluate.zero_shot import class_embeddings
from coca_jax.serve import bodies
from coca_jax.serve.app import make_app
from coca_jax.serve.endpoints import ENDPOINTS
from coca_jax.serve.errors import RequestError
from coca_jax.serve.service import Served, Service
from coca_jax.serve.urls import Fetcher

FILES = [png(0), png(1, 50, 40), png(2, 40, 90)]


@pytest.fixture(scope="module")
def pixels(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, data in enumerate(FILES):
        (folder / f"{i}.png").write_bytes(data)
    return model.preprocess([folder / f"{i}.png" for i in range(len(FILES))])


def post(client, name, status=200, files=(), **content):
    """Posts a request, whose images are base64 in JSON, and returns the answer."""
    if files:
        content["images"] = [encoded(data) for data in files]
    answer = client.post(f"/v1/{name}", json=content)
    assert answer.status_code == status, answer.text
    return answer.json()


def error_of(client, name, status, **content):
    error = post(client, name, status, **content)["error"]
    assert "Traceback" not in str(error)
    return error


def test_embeddings_and_similarities_are_the_models(client, model, pixels):
    texts = ["a red circle", "stars"]
    images, embedded = model.encode_image(pixels), model.encode_text(model.tokenize(texts))
    answer = post(client, "embed", files=FILES, texts=texts)
    np.testing.assert_allclose(answer["images"], images, atol=1e-5)
    np.testing.assert_allclose(answer["texts"], embedded, atol=1e-5)
    packed = post(client, "embed", files=FILES[:1], encoding="base64")["images"][0]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(packed), "<f4"), images[0], atol=1e-5)
    answer = post(client, "similarity", files=FILES, texts=texts)
    np.testing.assert_allclose(answer["similarity"], images @ embedded.T, atol=1e-5)


OPTIONS = [
    {},
    {"method": "beam", "beams": 3, "n_best": 2, "prompt": "a red"},
    {"method": "sample", "samples": 2, "seed": 7, "length": 8},
]


@pytest.mark.parametrize(
    "options",
    [OPTIONS[0], *(pytest.param(options, marks=pytest.mark.slow) for options in OPTIONS[1:])],
    ids=["greedy", "beam", "sample"],
)
def test_captions_are_the_models(client, model, pixels, options):
    answer = post(client, "caption", files=FILES, **options)["captions"]
    for caption, expected in zip(answer, model.caption(pixels, **options), strict=True):
        assert caption["caption"] == expected.text
        assert caption["log_probability"] == pytest.approx(expected.log_probability, abs=1e-4)
        others = [one["caption"] for one in caption.get("others", [])]
        assert others == [one.text for one in expected.others]


def test_requests_that_come_together_are_answered_as_if_alone(model, pixels):
    """Different operations and rows at once: each gets its own result."""
    service = Service(Served(model), dataclasses.replace(LIMITS, max_latency=0.1))
    texts = ["a red circle", "a blue star", "two green rings"]
    expected = [model.encode_image(pixels), model.encode_text(model.tokenize(texts))]
    calls = [(i % 3, i % 2) for i in range(24)]
    with TestClient(make_app(service)) as client:

        def call(which):
            row, is_text = which
            content = {"texts": [texts[row]]} if is_text else {"files": [FILES[row]]}
            return post(client, "embed", **content)["texts" if is_text else "images"][0]

        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(call, calls))
        counts = re.findall(r"^coca_batch_rows_count.* (\S+)$", client.get("/metrics").text, re.M)
    service.close()
    for (row, is_text), answer in zip(calls, answers, strict=True):
        np.testing.assert_allclose(answer, expected[is_text][row], atol=1e-5)
    assert 0 < sum(map(float, counts)) < len(calls)


def test_samples_without_a_seed_differ(client):
    options = {"method": "sample", "samples": 2, "length": 8}
    first, second = (post(client, "caption", files=FILES, **options) for _ in range(2))
    assert first != second


def test_labels_have_probabilities_by_embeddings_and_by_captions(client, model, pixels):
    labels, templates = ["red circle", "star", "ring"], ["a {}", "one {}."]
    scale = float(np.exp(model.params["logit_scale"]))
    scores = model.encode_image(pixels) @ class_embeddings(model, labels, templates).T
    texts = [template.replace("{}", label) for label in labels for template in templates]
    nats = model.log_probabilities(pixels, texts).reshape(3, 3, 2)
    for scoring, logits in (("embeddings", scale * scores), ("captions", np.logaddexp(*nats.T).T)):
        options = {"labels": labels, "templates": templates, "scoring": scoring}
        answer = post(client, "classify", files=FILES, **options)["images"]
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for row, shares in zip(answer, expected, strict=True):
            given = {one["label"]: one["probability"] for one in row}
            np.testing.assert_allclose([given[label] for label in labels], shares, rtol=1e-3)
            assert [*given.values()] == sorted(given.values(), reverse=True)


def test_attention_maps_are_the_models(client, model, pixels):
    texts = ["a red circle", "stars", "ring"]
    answer = post(client, "attention", files=FILES, texts=texts)["texts"]
    first = post(client, "attention", files=FILES[:1], texts=texts)["texts"]
    assert first[0] == answer[0] and first[1] != answer[1]
    for words, expected in zip(answer, model.attention_maps(pixels, texts), strict=True):
        assert [one["word"] for one in words] == [word for word, _ in expected]
        for one, (_, weights) in zip(words, expected, strict=True):
            np.testing.assert_allclose(one["map"], weights, atol=1e-5)


def test_a_form_with_uploads_is_the_same_request(client):
    files = [("images", data) for data in FILES]
    answer = client.post("/v1/caption", files=files, data=OPTIONS[1])  # numbers become texts
    assert answer.status_code == 200, answer.text
    assert answer.json() == post(client, "caption", files=FILES, **OPTIONS[1])
    answer = client.post("/v1/embed", files=files[:1], data={"texts": ["a", "b"]})
    assert [len(answer.json()[name]) for name in ("images", "texts")] == [1, 2]


MALFORMED = [
    ("caption", {}, "images"),
    ("caption", {"images": []}, "images"),
    ("caption", {"images": ["aGk="], "beans": 3}, "beans"),
    ("caption", {"images": [encoded(FILES[0])], "beams": 3}, "greedy has no option beams"),
    ("caption", {"images": [encoded(FILES[0])], "method": "beam", "n_best": 9}, "n_best"),
    ("caption", {"images": [encoded(FILES[0])], "length": 9999}, "length"),
    ("caption", {"images": [encoded(FILES[0])], "prompt": "red " * 100}, "the prompt"),
    ("caption", {"images": [encoded(FILES[0])], "seed": "7"}, "seed"),
    ("caption", {"images": [encoded(FILES[0])], "seed": 7}, "greedy has no option seed"),
    ("caption", {"images": [encoded(FILES[0])] * 5}, "at most 4 images, not 5"),
    ("caption", {"images": ["aGVsbG8="]}, "images[0] cannot be read as an image"),
    ("caption", {"images": ["http://127.0.0.1/a.png"]}, "takes no URLs"),
    ("embed", {}, "neither images nor texts"),
    ("embed", {"texts": ["x" * 4001]}, "texts"),
    ("classify", {"images": ["aGk="], "labels": []}, "labels"),
    ("classify", {"images": ["aGk="], "labels": ["a"], "templates": ["photo"]}, "templates"),
    ("classify", {"images": ["aGk="], "labels": ["a"] * 600}, "1200 texts"),
    ("attention", {"images": ["aGk="] * 3, "texts": ["a", "b"]}, "2 texts about 3 images"),
    ("attention", {"images": ["aGk="], "texts": ["a"] * 5}, "at most 4 texts, not 5"),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_errors_of_malformed_requests_name_the_field(client, name, content, message):
    assert message in str(error_of(client, name, 422, **content))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"texts": ["\\ud800"]}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_json_object_is_malformed(client, body):
    answer = client.post("/v1/embed", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text


FORM_TEXT = b'--x\r\nContent-Disposition: form-data; name="texts"\r\n\r\na\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"--y"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n"),
        ("multipart/form-data; boundary=x; charset=undefined", FORM_TEXT),
    ],
)
def test_a_broken_form_is_malformed(client, kind, body):
    answer = client.post("/v1/embed", content=body, headers={"content-type": kind})
    assert answer.status_code == 422 and answer.json()["error"]["message"], answer.text


def test_other_contents_paths_and_methods_are_refused_as_json(client):
    answers = [
        (client.post("/v1/embed", content=b"x", headers={"content-type": "text/plain"}), 415),
        (client.post("/v1/embed", content=b"x"), 415),
        (client.get("/v1/embed"), 405),
        (client.get("/v1/nothing"), 404),
        (client.get("/../app.py"), 404),
    ]
    for answer, status in answers:
        assert answer.status_code == status and answer.json()["error"]["message"]
    assert "not trained to answer" in error_of(client, "answer", 404)["message"]
    assert "no index" in error_of(client, "search", 404)["message"]


def test_what_is_too_large_is_refused(client):
    assert "90 x 200 pixels" in error_of(client, "caption", 413, files=[png(0, 200, 90)])["message"]
    assert "200,000 bytes" in error_of(client, "embed", 413, texts=["x" * 200_000])["message"]

    def chunks():
        for _ in range(30):
            yield b"x" * 10_000

    answer = client.post(
        "/v1/embed", content=chunks(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    answer = client.post("/v1/embed", files=[("images", bytes(200_000))])
    assert answer.status_code == 413
    form = {"data": {"images": "x" * 40_000}, "files": [("images", b"x")]}
    answer = client.post("/v1/embed", **form)
    assert answer.status_code == 413 and "as an upload" in answer.json()["error"]["message"]


MANY = 50_000


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("embed", {"images": [1] * MANY}, 422),
        ("embed", {"images": ["a"] * MANY}, 422),
        ("embed", {"texts": [[]] * MANY}, 422),
        ("caption", {str(number): 1 for number in range(MANY)}, 422),
        ("embed", {"images": [1] * 300_000}, 413),
        ("embed", {"x": [[]] * 150_000}, 413),
    ],
)
def test_wrong_requests_of_many_parts_cost_little(name, content, status):
    """The memory that it takes to say what is wrong."""
    body = json.dumps(content, separators=(",", ":")).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return messages.pop()

    kind = next(one.request for one in ENDPOINTS if one.name == name)
    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    tracemalloc.start()
    with pytest.raises(RequestError) as refused:
        asyncio.run(bodies.read(Request(scope, receive), kind, 2**25))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.status == status and len(refused.value.details or ()) <= 20
    assert most < 2**24


def test_a_full_server_says_when_to_come_again(model):
    service = Service(Served(model), LIMITS)
    with TestClient(make_app(service)) as client, service.admission.admitted(2**30 - 1):
        answer = client.post("/v1/embed", json={"texts": ["a"]})
        assert client.get("/healthz").status_code == 200
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"


def test_a_failure_of_the_model_has_an_id_that_the_log_explains(model, monkeypatch, caplog):
    service = Service(Served(model), LIMITS)
    monkeypatch.setattr(service.operations, "embed_text", lambda rows: 1 / 0)
    with TestClient(make_app(service)) as client, caplog.at_level(logging.ERROR):
        error = error_of(client, "embed", 500, texts=["a"])
        figures = client.get("/metrics").text
    assert "division" not in error["message"] and error["id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text and "coca_failures_total 1.0" in figures


def test_urls_are_fetched_where_they_are_allowed(model):
    limits = dataclasses.replace(LIMITS, allow_urls=True)
    addresses = {"good.example": ["8.8.8.8"], "evil.example": ["169.254.169.254"]}

    class Stub(Fetcher):
        def _get(self, url, deadline):
            self._address(url.split("/")[2], 80)
            return FILES[0], None

    fetch = Stub(1000, lambda host, port: addresses[host])
    with TestClient(make_app(Service(Served(model), limits, fetch))) as client:
        good = post(client, "embed", images=["https://good.example/a.png"])
        assert good == post(client, "embed", files=FILES[:1])
        error = error_of(client, "embed", 422, images=["https://evil.example/a.png"])
    assert "public address" in error["message"]


def test_urls_of_a_request_are_fetched_together(model):
    """Two fetchers that wait for each other; of two errors one is the answer."""
    barrier = threading.Barrier(2, timeout=10)

    class Stub(Fetcher):
        def __call__(self, url):
            barrier.wait()
            if "bad" in url:
                raise RequestError(422, "the URL of an image cannot be fetched")
            return FILES[0]

    service = Service(Served(model), dataclasses.replace(LIMITS, allow_urls=True), Stub(1000))
    with TestClient(make_app(service)) as client:
        post(client, "embed", images=["https://a.example", "https://b.example"])
        error = error_of(client, "embed", 422, images=["https://bad.example", "https://bad.b"])
    service.close()
    assert "cannot be fetched" in error["message"]


def test_the_state_and_the_figures_of_the_server(client, model):
    assert client.get("/healthz").json() == {"status": "ok"}
    info = client.get("/v1/model").json()
    assert info["name"] == "tiny" and info["step"] == 3 and info["image_size"] == [32, 32]
    assert info["abilities"]["caption"] and not info["abilities"]["search"]
    before = client.get("/metrics").text
    assert 'coca_requests_total{path="/healthz",status="200"}' in before
    for name in ("coca_request_seconds_bucket", "coca_batch_rows_sum", "coca_queue_rows 0.0"):
        assert name in before


def test_the_document_names_every_schema_that_it_refers_to(client):
    document = client.get("/openapi.json").json()
    names = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= document["components"]["schemas"].keys()
    assert "/v1/caption" in document["paths"] and "/v1/answer" not in document["paths"]
    form = document["paths"]["/v1/caption"]["post"]["requestBody"]["content"]
    name = form["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    images = document["components"]["schemas"][name]["properties"]["images"]
    assert images["items"]["format"] == "binary"


def test_the_page_and_its_headers(client):
    answer = client.get("/")
    assert answer.status_code == 200 and "<!doctype html>" in answer.text
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_closed_it_finishes_what_it_has(model):
    service = Service(Served(model), LIMITS)
    began, go = threading.Event(), threading.Event()
    embed_text = service.operations.embed_text

    def slow(rows):
        began.set()
        assert go.wait(10)
        return embed_text(rows)

    service.operations.embed_text = slow
    with TestClient(make_app(service)) as client, concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(client.post, "/v1/embed", json={"texts": ["a"]})
        assert began.wait(10)
        closing = pool.submit(service.close)
        assert not closing.done()
        go.set()
        assert answer.result(10).status_code == 200
        closing.result(10)
        assert client.get("/healthz").status_code == 503
