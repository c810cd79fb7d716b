"""Images with what a model said of them, for the writers that show images."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8


class Sample(NamedTuple):
    """An image and its text."""

    image: bytes
    """A JPEG file."""
    text: str
    """Lines of plain text."""

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image, decoded."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.image)).convert("RGB"))


def samples_of(artifacts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Sample]]:
    """The samples among what evaluations drew.

    Args:
      artifacts: of each evaluation; see `coca_jax.observe.report.artifacts`. An image that is no
        JPEG file is left out.

    Returns:
      Samples by names such as `eval/captioning/captions`.
    """
    named = {
        f"eval/{evaluation}/{kind}": [
            Sample(image, text) for image, text in pairs if isinstance(image, bytes)
        ]
        for evaluation, content in artifacts.items()
        for kind, pairs in _pairs(content).items()
    }
    return {name: samples for name, samples in named.items() if samples}


def _pairs(content: Mapping[str, Any]) -> dict[str, Iterator[tuple[Any, str]]]:
    return {
        "captions": ((s["image"], _caption(s)) for s in content.get("samples", ())),
        "answers": ((q["image"], _answer(q)) for q in content.get("questions", ())),
        "image_to_text": (
            (query["image"], "\n".join(map(_item, query["items"])))
            for query in content.get("image_to_text", ())
        ),
        "text_to_image": (
            (item["image"], f"{query['text']}\n{_item(item)}")
            for query in content.get("text_to_image", ())
            for item in query["items"][:1]
        ),
    }


def _caption(sample: Mapping[str, Any]) -> str:
    return "\n".join([sample["caption"], *_named("reference", sample.get("references", ()))])


def _answer(question: Mapping[str, Any]) -> str:
    given = [question["given"]] if question.get("given") else []
    lines = [question["question"], f"answer: {question['answer']}", *_named("given", given)]
    return "\n".join(line for line in lines if line)


def _named(name: str, texts: Sequence[str]) -> list[str]:
    return [f"{name}: {text}" for text in texts]


def _item(item: Mapping[str, Any]) -> str:
    """A line of a retrieved item: whether it is right, its score, and its text if it is one."""
    mark = "right" if item["right"] else "wrong"
    return f"{mark} ({item['score']:.3f}){': ' * ('text' in item)}{item.get('text', '')}"
