"""A fake model whose embeddings are planted, so that right answers are known by hand."""

import dataclasses

import numpy as np
import pytest

from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.embed import embed_examples


@dataclasses.dataclass(frozen=True)
class Caption:
    text: str
    log_probability: float
    others: tuple["Caption", ...] = ()


class FakeModel:
    """An image's identity is its top left pixel's red value; a text's token is its list index."""

    def __init__(self, images, texts, captions=(), classes=()):
        self.images = {red: _unit(vector) for red, vector in images.items()}
        self.names = list(texts)
        self.texts = np.stack([_unit(vector) for vector in texts.values()])
        self.captions = dict(captions)
        self.classes = dict(classes)
        self.images_encoded = 0

    def tokenize(self, texts):
        return np.array([[self.names.index(text)] for text in texts], np.int32)

    def encode_image(self, pixels):
        self.images_encoded += len(pixels)
        return np.stack([self.images[image[0, 0, 0]] for image in pixels])

    def image_tokens(self, pixels):
        """Two tokens: the embedding, and twice it."""
        one = self.encode_image(pixels)
        return np.stack([one, 2 * one], axis=1)

    def encode_text(self, ids):
        return self.texts[ids[:, 0]]

    def caption(self, pixels, **options):
        self.options = options
        others = [Caption(f"other {i}", -2.0 - i) for i in range(options.get("n_best", 1) - 1)]
        known = [self.captions[image[0, 0, 0]] for image in pixels]
        return [Caption(f"{text}", -1.5, tuple(others)) for text in known]

    def classify(self, pixels, texts=""):
        """The planted class of an image, or of a text about one."""
        self.classified = texts
        rows = [texts] * len(pixels) if isinstance(texts, str) else texts
        reds = [image.reshape(-1)[0] for image in pixels]
        keys = [(red, text) if text else red for red, text in zip(reds, rows, strict=True)]
        return np.eye(3, dtype=np.float32)[[self.classes[key] for key in keys]]

    def matching_logits(self, pixels, texts):
        """Three times the opposite of the similarity, of each image with its own texts."""
        rows = [texts] * len(pixels) if isinstance(texts[0], str) else texts
        each = np.stack([self.encode_text(self.tokenize(row)) for row in rows])
        return -3 * np.einsum("be,bke->bk", self.encode_image(pixels), each)

    def losses(self, losses, batch):
        raise NotImplementedError

    def attention_maps(self, pixels, texts):
        """Of each word, two patches with the red value and the word's place."""
        return [
            [
                (word, np.array([[image[0, 0, 0], i]], np.float32))
                for i, word in enumerate(text.split())
            ]
            for image, text in zip(pixels, texts, strict=True)
        ]

    def log_probabilities(self, pixels, texts):
        return self.encode_image(pixels) @ self.encode_text(self.tokenize(texts)).T


class FakeData(EvaluationData):
    """The data of an evaluation: batches and names that a test gives."""

    class_names, head_classes, model = (), (), None

    def __init__(self, batches, class_names=(), head_classes=(), model=None):
        given = {"class_names": class_names, "head_classes": head_classes, "model": model}
        self.__dict__.update(given, _batches=batches)

    def batches(self):
        return self._batches

    def labeled_batches(self, class_names=()):
        del class_names
        return iter(self._batches)

    def embedded(self):
        return embed_examples(self.model, self._batches)


def _unit(vector):
    return np.asarray(vector, np.float32) / np.linalg.norm(vector)


def make_batches(captions, labels, sizes):
    """Image i is plain with red value i; `sizes` are the batches' sizes."""
    start = 0
    for size in sizes:
        rows = range(start, start + size)
        yield {
            "image": np.stack([np.full((8, 12, 3), i, np.uint8) for i in rows]),
            "captions": [captions[i] for i in rows],
            "label": np.array([labels[i] for i in rows], np.int64),
        }
        start += size


@pytest.fixture
def fake_model():
    return FakeModel


@pytest.fixture
def fake_data():
    return FakeData


@pytest.fixture
def batches():
    return make_batches
