"""Shapes: generated scenes of one to three colored shapes, with several true captions each.

A shape has one of eight colors, eight kinds, two sizes and four places. Eight of the 64
color-kind combinations are never trained on. Of the scenes made of the other 56, one in eight
is kept for `test`: for each combination one of its eight (size, place) pairs when it is alone.
"""

import io
import itertools
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from coca_jax.datasets.base import Drawn

SEED = 2022

IMAGE_SIZE = 32  # pixels
SUPERSAMPLING = 4  # drawn this much larger, then averaged down
RADIUS = {"small": 3.8, "large": 6.6}  # pixels
POSITION_JITTER = 1.0  # pixels, either way
RADIUS_JITTER = 0.07  # relative, either way
COLOR_JITTER = 12  # of 255, either way, per channel
BACKGROUND = (222, 250)  # range of each channel at each corner; blended in between
SINGLE_SHARE = 0.5  # share of the scenes with one shape; the others have two or three

SIZES = tuple(RADIUS)
COLORS = {
    "red": (214, 32, 40),
    "orange": (242, 128, 22),
    "yellow": (244, 208, 20),
    "green": (34, 150, 56),
    "cyan": (30, 190, 205),
    "blue": (36, 70, 215),
    "pink": (240, 110, 185),
    "black": (28, 28, 30),
}
PLACES = ("top left", "top right", "bottom left", "bottom right")  # in reading order
NUMBERS = ("one", "two", "three")
UNSEEN = ("warm", "cold", "old", "new")  # no image shows these


def _polar(radius: Any, turn: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=-1)


def _circle(radius: float) -> Float[np.ndarray, "n 2"]:
    return _polar(radius, np.linspace(0, 2 * np.pi, 64, endpoint=False))


def _star() -> Float[np.ndarray, "n 2"]:
    corner = np.arange(10)
    return _polar(np.where(corner % 2, 0.45, 1.1), np.pi * (corner / 5 - 0.5))


def _cross() -> Float[np.ndarray, "n 2"]:
    arm = np.array([(1, -3), (1, -1), (3, -1)]) / 3  # the upper right quarter, clockwise
    turn = np.array([(0, 1), (-1, 0)])  # right-multiplied, by a quarter
    return np.concatenate([arm @ np.linalg.matrix_power(turn, n) for n in range(4)])


def _crescent() -> Float[np.ndarray, "n 2"]:
    tip, bite = 0.9, 1.28  # half the opening as seen from the centers of the two circles
    outer = _polar(1.0, np.linspace(tip, 2 * np.pi - tip, 48))
    inner = _polar(np.sin(tip) / np.sin(bite), np.linspace(2 * np.pi - bite, bite, 48))
    inner[:, 0] += outer[0, 0] - inner[-1, 0]  # so that their ends meet
    return np.concatenate([outer, inner])


# Outlines within about the unit circle, y down; a second outline is a hole.
KINDS: dict[str, list[Float[np.ndarray, "n 2"]]] = {
    "circle": [_circle(1.0)],
    "square": [0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1.0)])],
    "triangle": [np.array([(0, -1), (1, 0.85), (-1, 0.85)])],
    "diamond": [np.array([(0, -1.1), (0.72, 0), (0, 1.1), (-0.72, 0)])],
    "cross": [_cross()],
    "star": [_star()],
    "ring": [_circle(1.0), _circle(0.5)],
    "crescent": [_crescent()],
}


CLASS_NAMES = [f"{color} {kind}" for color, kind in itertools.product(COLORS, KINDS)]


class Shape(NamedTuple):
    """One shape of a scene: indices into PLACES, SIZES, COLORS and KINDS."""

    place: int
    size: int
    color: int
    kind: int

    @property
    def combination(self) -> int:
        """The color and kind as one number: the class label."""
        return self.color * len(KINDS) + self.kind

    def words(self, size: bool = False, place: bool = False) -> str:
        """Describes the shape, as in "a small red circle at the top left"."""
        name = CLASS_NAMES[self.combination]
        start = f"a {SIZES[self.size]} {name}" if size else with_article(name)
        return f"{start} at the {PLACES[self.place]}" if place else start


Scene = tuple[Shape, ...]


def with_article(name: str) -> str:
    """Returns the phrase with its article, such as "an orange star"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# Held out: each color once and each kind once (3 and 8 have no common divisor).
NOVEL = np.array([c * len(KINDS) + (3 * c + 2) % len(KINDS) for c in range(len(COLORS))])
SEEN = np.setdiff1d(np.arange(len(COLORS) * len(KINDS)), NOVEL)


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to; a pure function of what it shows, not of its pixels."""
    if any(shape.combination in NOVEL for shape in scene):
        return "test_novel"
    return "test" if sum(sum(shape) + 3 * shape.size for shape in scene) % 8 == 0 else "train"


def sample_scene(rng: np.random.Generator, split: str) -> Scene:
    """Draws a scene of a split, its shapes in reading order and all of different combinations."""
    while True:
        count = 1 if rng.random() < SINGLE_SHARE else int(rng.integers(2, 4))
        combinations = rng.choice(SEEN, count, replace=False)
        if split == "test_novel":
            combinations[rng.integers(count)] = rng.choice(NOVEL)
        places = np.sort(rng.choice(len(PLACES), count, replace=False))
        scene = tuple(
            Shape(place, size, *divmod(combination, len(KINDS)))
            for place, size, combination in zip(
                places.tolist(),
                rng.integers(2, size=count).tolist(),
                combinations.tolist(),
                strict=True,
            )
        )
        if split_of(scene) == split:
            return scene


def captions(scene: Scene) -> list[str]:
    """True captions: the complete one, then ones with fewer details, then each shape alone."""
    details = ((True, True), (False, True), (True, False), (False, False))
    texts = [listed([shape.words(size, place) for shape in scene]) for size, place in details]
    return list(dict.fromkeys(texts + [shape.words(False, False) for shape in scene]))


def listed(items: list[str]) -> str:
    """Joins them, as in "x", "x and y", "x, y and z"."""
    *first, last = items
    return " and ".join(filter(None, [", ".join(first), last]))


def questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions about the scene that have one right answer, each with that answer."""
    colors, kinds = tuple(COLORS), tuple(KINDS)
    pairs = [("how many shapes are there?", NUMBERS[len(scene) - 1])]
    for shape in scene:
        kind, color, place = kinds[shape.kind], colors[shape.color], PLACES[shape.place]
        pairs.append((f"what shape is at the {place}?", kind))
        if sum(other.kind == shape.kind for other in scene) == 1:
            pairs.append(
                (f"what colour is the {kind}?", color)
            )  # British spelling is part of the data
            pairs.append((f"what size is the {kind}?", SIZES[shape.size]))
            pairs.append((f"where is the {kind}?", place))
        if sum(other.color == shape.color for other in scene) == 1:
            pairs.append((f"what shape is {color}?", kind))
    shown = [shape.combination for shape in scene]
    # Questions about held-out combinations in training would show that these never occur.
    absent = [combination for combination in SEEN if combination not in shown]
    for combination, answer in ((rng.choice(shown), "yes"), (rng.choice(absent), "no")):
        pairs.append((f"is there {with_article(CLASS_NAMES[combination])}?", answer))
    return pairs


def hypotheses(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Texts about the scene, each with its relation to the scene, as in SNLI-VE.

    Two are about a color or the number of shapes: one is true (entailment), one false
    (contradiction). Two are about a property that cannot be seen: one of a shape that is there
    (neutral), one of a shape that is not (contradiction). Each text has both relations equally
    often, so that the text alone does not tell which.
    """
    shape, count = scene[rng.integers(len(scene))], len(scene)
    shown = [other.combination for other in scene]
    # Questions about held-out combinations in training would show that these never occur.
    absent = [combination for combination in SEEN if combination not in shown]
    if rng.random() < 0.5:
        same_kind = [c for c in absent if c % len(KINDS) == shape.kind]
        pair = (shape.combination, rng.choice(same_kind))
        true, false = ("the {1} is {0}".format(*CLASS_NAMES[c].split()) for c in pair)
    else:  # half of the scenes have one shape, and so do half of the false texts
        other = 1 if count > 1 else int(rng.integers(2, 4))
        true, false = (_number_of_shapes(number) for number in (count, other))
    here, gone = rng.choice(UNSEEN, 2)
    return [
        (true, "entailment"),
        (false, "contradiction"),
        (f"the {CLASS_NAMES[shape.combination]} is {here}", "neutral"),
        (f"the {CLASS_NAMES[rng.choice(absent)]} is {gone}", "contradiction"),
    ]


def _number_of_shapes(number: int) -> str:
    return "there is one shape" if number == 1 else f"there are {NUMBERS[number - 1]} shapes"


def foil(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """The scene's plain caption, and one with a wrong detail.

    Two shapes have swapped their colors; or, where that changes nothing, one has another color.
    """
    swapped = [*scene]
    first, second = rng.permutation(len(scene))[:2] if len(scene) > 1 else (0, 0)
    a, b = scene[first], scene[second]
    if a.color != b.color and a.kind != b.kind:
        swapped[first], swapped[second] = a._replace(color=b.color), b._replace(color=a.color)
    else:
        color = (a.color + rng.integers(1, len(COLORS))) % len(COLORS)
        swapped[first] = a._replace(color=int(color))
    right, wrong = (listed([s.words() for s in shapes]) for shapes in (scene, swapped))
    return right, wrong


class Figure(NamedTuple):
    """A shape as it is drawn: lengths in pixels."""

    center: Float[np.ndarray, "2"]  # x, y
    radius: float
    color: list[int]  # RGB
    outlines: list[Float[np.ndarray, "n 2"]]


def figures(scene: Scene, rng: np.random.Generator) -> list[Figure]:
    """The figures of a scene's shapes, each with a small random deviation."""
    drawn = []
    for shape in scene:
        radius = RADIUS[SIZES[shape.size]] * (1 + RADIUS_JITTER * rng.uniform(-1, 1))
        row, column = divmod(shape.place, 2)
        center = IMAGE_SIZE * (np.array([column, row]) + 0.5) / 2
        center = center + POSITION_JITTER * rng.uniform(-1, 1, 2)
        color = jittered(list(COLORS.values())[shape.color], rng)
        drawn.append(Figure(center, radius, color, list(KINDS.values())[shape.kind]))
    return drawn


def jittered(color: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """The color with a small random deviation of each channel."""
    shift = rng.integers(-COLOR_JITTER, COLOR_JITTER + 1, 3)
    return np.clip(np.array(color) + shift, 0, 255).tolist()


def background(
    rng: np.random.Generator, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """An empty image of this size in pixels, drawn SUPERSAMPLING times as large."""
    corners = rng.integers(*BACKGROUND, size=(2, 2, 3), endpoint=True).astype(np.uint8)
    size = width * SUPERSAMPLING, height * SUPERSAMPLING
    return cv2.resize(corners, size, interpolation=cv2.INTER_LINEAR)


def draw(
    empty: UInt8[np.ndarray, "h2 w2 3"], drawn: Iterable[Figure]
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws figures on a background, RGB, and averages it down to its final size."""
    image = empty.copy()
    for center, radius, color, outlines in drawn:
        points = [np.rint(SUPERSAMPLING * (center + radius * o)).astype(np.int32) for o in outlines]
        cv2.fillPoly(image, points, color)
    height, width = (side // SUPERSAMPLING for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def render(scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a scene, RGB."""
    empty = background(rng)
    return draw(empty, figures(scene, rng))


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> io.BytesIO:
    """An RGB image as a PNG file, in the form TFDS takes without TensorFlow."""
    return io.BytesIO(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


class Shapes(Drawn):
    """Scenes of one to three colored shapes with captions, questions and class labels.

    Also hypotheses with their relation to the scene, and a text with a foil.

    A change of images or texts needs a new version: TFDS keeps what it has prepared.
    """

    VERSION = tfds.core.Version("1.1.0")
    size_mib = 35
    tokenizer_vocab_size = 400
    counts: ClassVar = {"train": 20_000, "test": 2_000, "test_novel": 2_000}

    def features(self) -> dict[str, Any]:
        """An image and its texts; a scene of one shape has a label."""
        texts = tfds.features.Sequence(tfds.features.Text())
        names = ("captions", "questions", "answers", "hypotheses", "judgements", "texts", "foils")
        return {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            **dict.fromkeys(names, texts),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES),
        }

    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """Draws a scene and makes its texts."""
        rng = np.random.default_rng([SEED, *seed])
        scene = sample_scene(rng, split)
        pairs = questions(scene, rng)
        # Another generator, so that the images of version 1.0.0 stay as they were.
        text_rng = np.random.default_rng([SEED, *seed, 1])
        judged, (text, wrong) = hypotheses(scene, text_rng), foil(scene, text_rng)
        return {
            "image": encode_png(render(scene, rng)),
            "captions": captions(scene),
            "questions": [question for question, _ in pairs],
            "answers": [answer for _, answer in pairs],
            "hypotheses": [hypothesis for hypothesis, _ in judged],
            "judgements": [judgement for _, judgement in judged],
            "texts": [text],
            "foils": [wrong],
            "label": scene[0].combination if len(scene) == 1 else -1,
        }
