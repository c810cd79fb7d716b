"""Image-text matching: which of two texts is about the image, and which is a foil.

As benchmarks of compositionality ask it (SugarCrepe, ARO): two texts that differ in a detail.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from coca_jax.data.captions import listed
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.embed import embed_texts
from coca_jax.evaluate.questions import FIELDS, required_text
from coca_jax.evaluate.rerank import LOSS_OF_SCORING, scorer
from coca_jax.evaluate.samples import EvenlySpaced, thumbnail
from coca_jax.fields import choice, field
from coca_jax.patches import Images

SAMPLES = 24
ROWS = 256  # pairs at a time, where each is scored with its image


@dataclasses.dataclass(frozen=True)
class Matching(Evaluation):
    """Compares each image with its right texts and their foils."""

    scoring: str = field(
        "embeddings",
        "By the similarity of embeddings, by the decoder's probability of the texts (captions), or "
        "by the matching head (matching).",
        choice("embeddings", "captions", "matching"),
    )
    texts: Sequence[str] = field(
        ("texts", "foils"),
        "Names of the fields with the right texts and with as many foils.",
        FIELDS,
    )

    @property
    def requires(self) -> str:
        """The loss that trains what scores."""
        return LOSS_OF_SCORING[self.scoring]

    @property
    def several_images(self) -> bool:
        """Embeddings of several images are averaged; the decoder reads one image."""
        return self.scoring == "embeddings"

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Scores all pairs.

        Returns:
          The share of pairs whose right text scores higher (a tie counts as wrong), and the mean
          difference of the scores; for the report some images with the text that scored higher.

        Raises:
          UserError: there are no such texts, or not as many of both.
        """
        wins, margins, samples, bad = [], [], EvenlySpaced(SAMPLES), 0
        for batch in data.batches():
            bad += batch.get("bad_image", 0)
            of_images = [self._pairs(fields) for fields in batch["fields"]]
            images = [i for i, pairs in enumerate(of_images) for _ in pairs]
            pairs = [pair for pairs in of_images for pair in pairs]
            if not pairs:
                continue
            scores = self._scores(model, batch["image"], images, pairs)
            margins += (scores[:, 0] - scores[:, 1]).tolist()
            won = (scores[:, 0] > scores[:, 1]).tolist()
            for image, pair, right in zip(images, pairs, won, strict=True):
                sample = batch["image"][image], *pair, right
                samples.offer(lambda sample=sample: _sample(*sample))
            wins += won
        if not wins:
            fields = " and ".join(self.texts)
            raise UserError(f"matching needs the fields {fields}, and no example has them")
        metrics = {"accuracy": float(np.mean(wins)), "chance": 0.5}
        metrics |= {"margin": float(np.mean(margins)), "count": float(len(wins))}
        return metrics | {"bad_images": float(bad)}, {"questions": samples.chosen()}

    def _pairs(self, fields: dict[str, Any]) -> list[tuple[str, str]]:
        right, wrong = (
            [required_text(name, text) for text in listed(fields.get(name))] for name in self.texts
        )
        if len(right) != len(wrong):
            names = self.texts
            raise UserError(f"{len(right)} {names[0]} of an image have {len(wrong)} {names[1]}")
        return list(zip(right, wrong, strict=True))

    def _scores(
        self,
        model: Model,
        pixels: Images,
        images: Sequence[int],
        pairs: Sequence[tuple[str, str]],
    ) -> Float[np.ndarray, "n 2"]:
        """Scores of each pair for the image of this number."""
        if self.scoring != "embeddings":
            score = scorer(model, self.scoring)
            parts = [slice(i, i + ROWS) for i in range(0, len(pairs), ROWS)]
            scores = [score(pixels[images[part]], pairs[part]) for part in parts]
            return np.concatenate([np.asarray(part) for part in scores])
        images = np.asarray(model.encode_image(pixels), np.float32)[images]
        embedded = embed_texts(model, [text for pair in pairs for text in pair])
        return np.einsum("ne,nte->nt", images, embedded.reshape(len(pairs), 2, -1))


def _sample(image: Images, right: str, wrong: str, won: bool) -> dict[str, Any]:
    return {
        "image": thumbnail(image, 128),
        "question": f"{right} / {wrong}",
        "answer": right if won else wrong,
        "given": right,
        "accuracy": float(won),
    }
