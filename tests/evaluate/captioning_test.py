import cv2
import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import captioning


def test_evaluate(fake_model, batches, capsys):
    written = {0: "a red circle", 1: "", 2: "unseen", 3: "a blue star"}
    model = fake_model({}, {"x": [1]}, written)
    captions = [["a RED circle", "a circle"], ["a cube"], ["", "!"], ["a star", "a blue star"]]
    metrics, artifacts = captioning.caption_images(model, batches(captions, [-1] * 4, [3, 1]))
    assert metrics["count"] == 3  # image 2 has no caption with a word in it
    assert metrics["exact_match"] == pytest.approx(2 / 3)
    assert metrics["exact_match_first"] == pytest.approx(1 / 3)
    assert metrics["log_probability"] == -1.5
    samples = artifacts["samples"]
    assert [s["caption"] for s in samples] == ["a red circle", "", "a blue star"]
    assert [s["exact"] for s in samples] == [True, False, True]
    assert samples[2]["references"] == ["a star", "a blue star"]
    looks = [[(look["word"], look["map"]) for look in sample["attention"]] for sample in samples]
    assert looks[1] == []
    assert looks[2] == [("a", [[3, 0]]), ("blue", [[3, 1]]), ("star", [[3, 2]])]
    image = cv2.imdecode(np.frombuffer(samples[2]["image"], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(image, np.full((8, 12, 3), 3), atol=2)
    assert capsys.readouterr().out == ""


def test_no_references_is_an_error_of_the_user(fake_model, batches):
    model = fake_model({}, {"x": [1]}, {0: "a"})
    with pytest.raises(UserError, match="no example has one"):
        captioning.caption_images(model, batches([[]], [-1], [1]))


def test_all_captions_are_results_by_the_ids_of_their_records(fake_model, batches):
    model = fake_model({}, {"x": [1]}, {0: "a cat", 1: "a dog", 2: "a cow", 3: "a hen"})
    made = list(batches([["a cat"], [], ["a cow"], []], [0] * 4, [2, 2]))
    made[0]["fields"] = [{"image_id": 42}, {"cocoid": 7}]
    made[1]["fields"] = [{}, {"image/id": 9}]
    metrics, artifacts = captioning.caption_images(model, made)
    assert metrics["count"] == 2  # the others have no reference, and yet a caption
    assert artifacts["files"] == {
        "results": [
            {"image_id": 42, "caption": "a cat"},
            {"image_id": 7, "caption": "a dog"},
            {"image_id": 2, "caption": "a cow"},
            {"image_id": 9, "caption": "a hen"},
        ]
    }


def test_an_image_of_several_records_has_one_caption_and_all_references(fake_model, batches):
    model = fake_model({}, {"x": [1]}, {0: "a cat", 1: "a dog", 2: "a cat", 3: "a hen"})
    made = list(batches([["one cat"], ["a dog"], ["a cat"], ["!"]], [0] * 4, [3, 1]))
    made[0]["fields"] = [{"image_id": 42}, {"image_id": 7}, {"image_id": 42}]
    made[1]["fields"] = [{"image_id": "7"}]
    metrics, artifacts = captioning.caption_images(model, made)
    assert artifacts["files"]["results"] == [
        {"image_id": 42, "caption": "a cat"},
        {"image_id": 7, "caption": "a dog"},
    ]
    assert (metrics["count"], metrics["exact_match"], metrics["exact_match_first"]) == (2, 1, 0.5)
    assert [s["references"] for s in artifacts["samples"]] == [["one cat", "a cat"], ["a dog"]]


def test_images_without_an_id_have_their_number_in_the_data_set(fake_model, batches):
    model = fake_model({}, {"x": [1]}, {0: "a cat", 1: "a dog"})
    (made,) = batches([["a cat"], ["a dog"]], [0, 0], [2])
    found = captioning.caption_images(model, [made | {"index": [0, 2]}])[1]["files"]["results"]
    assert [row["image_id"] for row in found] == [0, 2]  # number 1 could not be read


def test_several_captions_of_an_image_are_kept_beside_the_results(fake_model, batches):
    model = fake_model({}, {"x": [1]}, {0: "a cat", 1: "a dog"})
    made = batches([["a cat"], ["a dog"]], [0, 0], [1, 1])
    metrics, artifacts = captioning.caption_images(model, made, method="beam", beams=3, n_best=3)
    assert metrics["exact_match"] == 1  # of the best ones
    assert artifacts["files"]["results"][1] == {"image_id": 1, "caption": "a dog"}
    assert artifacts["files"]["n_best"][1] == {
        "image_id": 1,
        "captions": [
            {"caption": "a dog", "log_probability": -1.5},
            {"caption": "other 0", "log_probability": -2.0},
            {"caption": "other 1", "log_probability": -3.0},
        ],
    }
