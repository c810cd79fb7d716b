"""The contents of requests and answers as pydantic models: the API's documentation, too."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, WithJsonSchema

from coca_jax.evaluate.prompts import DEFAULT
from coca_jax.serve.limits import MAX_CHARACTERS, MAX_IMAGES, MAX_TEXTS

MAX_TEXTS_OF_IMAGE = 64  # that are generated
MAX_MATCHES = 100  # of a search

Image = Annotated[
    str | bytes,
    WithJsonSchema(
        {
            "type": "string",
            "description": "An image file in base64, or as a data: URL; or an http(s):// URL, if "
            "the server allows it. In a form: an upload.",
        }
    ),
]
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Full = Annotated[Text, StringConstraints(min_length=1)]
# The first error of a list ends its check: a list of errors would be far larger than the request.
Images = Annotated[list[Image], Field(min_length=1, max_length=MAX_IMAGES), FailFast()]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS), FailFast()]
FullTexts = Annotated[list[Full], Field(min_length=1, max_length=MAX_TEXTS), FailFast()]
Templates = Annotated[
    list[Annotated[Full, StringConstraints(pattern=r"\{\}")]],
    Field(min_length=1, max_length=100, description="Texts with {} for the label."),
    FailFast(),
]
Count = Annotated[int, Field(ge=1, le=MAX_TEXTS_OF_IMAGE)]
Positive = Annotated[float, Field(gt=0, le=1e4)]


class Request(BaseModel):
    """A request; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Embed(Request):
    """Images or texts to embed, or both."""

    images: Annotated[list[Image], Field(max_length=MAX_IMAGES), FailFast()] = []
    texts: Annotated[list[Text], Field(max_length=MAX_TEXTS), FailFast()] = []
    encoding: Literal["float", "base64"] = Field(
        "float", description="base64: of little-endian float32, which is shorter."
    )


class Embeddings(BaseModel):
    """Embeddings of unit length, in the order of the request."""

    images: list[list[float] | str]
    texts: list[list[float] | str]


class Caption(Request):
    """Images to caption, and how."""

    images: Images
    method: Literal["greedy", "sample", "beam"] = "greedy"
    prompt: Text = Field("", description="What captions begin with.")
    length: int | None = Field(
        None, ge=2, le=2**16, description="Most tokens, begin, prompt and end included."
    )
    min_length: int | None = Field(
        None, ge=0, le=2**16, description="Fewest tokens before the end, begin and prompt included."
    )
    repetition_penalty: Positive | None = Field(
        None, description="Above 1, repeated tokens become less likely."
    )
    beams: Count | None = Field(None, description="Texts that beam search extends.")
    n_best: Count | None = Field(None, description="Captions that beam search returns.")
    length_penalty: float | None = Field(
        None, ge=-10, le=10, description="Of beam search: above 0 favors long captions."
    )
    samples: Count | None = Field(None, description="Captions that are sampled.")
    temperature: Positive | None = Field(
        None, description="Of sampling: below 1 favors probable tokens."
    )
    top_k: int | None = Field(
        None, ge=0, le=2**20, description="Samples among this many tokens; 0: all."
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Samples among the fewest tokens with this total probability.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Of sampling, which is random without one."
    )


class Captioned(BaseModel):
    """A caption with its log-probability in nats, given the image."""

    caption: str
    log_probability: float


class BestCaption(Captioned):
    """The first caption of an image, and the others if `n_best` or `samples` asks for more."""

    others: list[Captioned] = []


class Captions(BaseModel):
    """A caption of each image."""

    captions: list[BestCaption]


class Classify(Request):
    """Images, and labels to choose among."""

    images: Images
    labels: FullTexts
    templates: Templates = list(DEFAULT)
    scoring: Literal["embeddings", "captions"] | None = Field(
        None,
        description="By the similarity of embeddings, or by the decoder's probability of the "
        "texts; by default embeddings, if the model has them.",
    )


class LabelScore(BaseModel):
    """A label, its probability among the labels, and what that is computed from."""

    label: str
    probability: float
    score: float = Field(description="Cosine similarity, or log-probability in nats.")


class Classes(BaseModel):
    """For each image all labels, the most probable first."""

    images: list[list[LabelScore]]


class Similarity(Request):
    """Images and texts to compare."""

    images: Images
    texts: Texts


class Similarities(BaseModel):
    """The cosine similarity of each image (row) and text (column)."""

    similarity: list[list[float]]


class Search(Request):
    """A text or an image to search for."""

    text: Text | None = None
    images: Annotated[list[Image], Field(max_length=1), FailFast()] = Field(
        [], description="One image, in place of a text."
    )
    top: int = Field(12, ge=1, le=MAX_MATCHES, description="Images to return.")


class Match(BaseModel):
    """An image of the index."""

    path: str = Field(description="Relative to the folder of images.")
    similarity: float
    thumbnail: str = Field(description="A small copy: a URL relative to the server's.")


class Matches(BaseModel):
    """The most similar images, the best first."""

    matches: list[Match]


class Answer(Request):
    """Images and a question about all of them, or one about each."""

    images: Images
    questions: FullTexts
    scoring: Literal["head", "generation"] | None = Field(
        None,
        description="Whether a head chooses the answer or the decoder writes it; by default the "
        "head, if the model has one.",
    )
    top: int = Field(5, ge=1, le=100, description="Answers of a head to return.")


class AnswerScore(BaseModel):
    """An answer; of a head its probability, of the decoder its log-probability in nats."""

    answer: str
    probability: float | None = None
    log_probability: float | None = None


class Answers(BaseModel):
    """For each image the answers, the most probable first."""

    answers: list[list[AnswerScore]]


class Attention(Request):
    """An image with texts about it, such as its captions; or images with a text about each."""

    images: Images
    texts: FullTexts


class Word(BaseModel):
    """A word, and where the decoder attends to in the image as it writes it."""

    word: str
    map: list[list[float]] = Field(description="Rows of the grid of patches; it sums to 1.")


class AttentionMaps(BaseModel):
    """The words of each text."""

    texts: list[list[Word]]


class ModelInfo(BaseModel):
    """The model, what it can do, and the server's limits."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    step: int | None
    image_size: list[int] = Field(description="Height and width that images are resized to.")
    resize_mode: str = Field(
        description="shortest: cut to the center; longest; squash; native: each keeps its aspect "
        "ratio, within as many patches."
    )
    abilities: dict[str, bool] = Field(description="By endpoint, such as caption.")
    captioning: dict[str, dict[str, float]] = Field(
        description="Options by method, as the page captions with; programs for them are ready."
    )
    indexed: int = Field(description="Images of the index.")
    limits: dict[str, int]


class Health(BaseModel):
    """Whether the server answers requests."""

    status: Literal["ok"]


class Problem(BaseModel):
    """The reason of an error."""

    message: str
    id: str | None = Field(None, description="Of an entry in the server's log.")
    details: list[dict[str, Any]] | None = Field(None, description="Fields that are wrong.")


class Error(BaseModel):
    """The answer to a request that could not be served."""

    error: Problem
