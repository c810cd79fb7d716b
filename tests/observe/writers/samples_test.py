import cv2
import numpy as np

from coca_jax.observe.writers.samples import samples_of


def jpeg(value):
    return cv2.imencode(".jpg", np.full((8, 8, 3), value, np.uint8))[1].tobytes()


def test_what_evaluations_drew_becomes_images_with_texts():
    artifacts = {
        "captioning": {
            "samples": [
                {"image": jpeg(9), "caption": "a cat", "references": ["a dog"], "exact": False},
                {"image": "stored.jpg", "caption": "left out"},
            ],
            "files": {"results": []},
        },
        "vqa": {
            "questions": [{"image": jpeg(7), "question": "what?", "answer": "a", "given": "b"}]
        },
        "retrieval": {
            "text_to_image": [
                {"text": "red", "items": [{"image": jpeg(1), "score": 0.5, "right": True}] * 2}
            ],
            "image_to_text": [
                {
                    "image": jpeg(2),
                    "items": [
                        {"text": "red", "score": 0.5, "right": True},
                        {"text": "blue", "score": 0.25, "right": False},
                    ],
                }
            ],
        },
        "zero_shot": {"class_names": ["a"], "confusion": [[1]]},
    }
    samples = samples_of(artifacts)
    assert {name: [s.text for s in group] for name, group in samples.items()} == {
        "eval/captioning/captions": ["a cat\nreference: a dog"],
        "eval/vqa/answers": ["what?\nanswer: a\ngiven: b"],
        "eval/retrieval/image_to_text": ["right (0.500): red\nwrong (0.250): blue"],
        "eval/retrieval/text_to_image": ["red\nright (0.500)"],
    }
    pixels = samples["eval/vqa/answers"][0].pixels()
    assert pixels.shape == (8, 8, 3) and abs(int(pixels.mean()) - 7) <= 1
