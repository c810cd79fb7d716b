import numpy as np
import pytest
from serve.app_test import FILES, error_of, post
from serve.conftest import LIMITS, make_model
from starlette.testclient import TestClient

from coca_jax.evaluate.questions import text_behind
from coca_jax.serve.app import make_app
from coca_jax.serve.service import Served, Service

QUESTIONS = ["a red circle", "a blue star"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), "configs/shapes_vqa.py:smoke")


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_app(Service(Served(model, writes_answers=True), LIMITS))) as client:
        yield client


@pytest.fixture(scope="module")
def pixels(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "0.png"
    path.write_bytes(FILES[0])
    return np.repeat(model.preprocess([path]), 2, axis=0)


def test_a_head_gives_the_probabilities_of_its_answers(client, model, pixels):
    answer = post(client, "answer", files=FILES[:1] * 2, questions=QUESTIONS, top=3)["answers"]
    logits = model.classify(pixels, QUESTIONS)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, expected in zip(answer, shares, strict=True):
        best = np.argsort(-expected)[:3]
        assert [one["answer"] for one in row] == [model.classes[i] for i in best]
        np.testing.assert_allclose([one["probability"] for one in row], expected[best], rtol=1e-4)


@pytest.mark.slow
def test_the_decoder_writes_answers_behind_the_question(client, model, pixels):
    answer = post(client, "answer", files=FILES[:1], questions=QUESTIONS[:1], scoring="generation")[
        "answers"
    ]
    (caption, *_) = model.caption(pixels[:1], prompt=QUESTIONS[0])
    assert answer[0][0]["answer"] == text_behind(caption.text, QUESTIONS[0])
    assert answer[0][0]["log_probability"] == pytest.approx(caption.log_probability, abs=1e-4)


def test_questions_are_one_for_all_images_or_one_for_each(client):
    answers = post(client, "answer", files=FILES[:2], questions=["a ring"])["answers"]
    assert len(answers) == 2
    error = error_of(client, "answer", 422, images=["aGk="], questions=["a", "b"])
    assert "2 questions about 1 images" in error["message"]


def test_what_a_model_was_not_trained_for_is_refused(client):
    assert "contrastive" in error_of(client, "embed", 404, texts=["a"])["message"]
