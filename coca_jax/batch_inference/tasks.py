"""What is computed for each record of a data set: captions, embeddings, or similarities."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow
from jaxtyping import Shaped

from coca_jax.data.sources import Record
from coca_jax.errors import UserError
from coca_jax.inference import LoadedModel
from coca_jax.patches import Images

Column = Sequence[Any] | Shaped[np.ndarray, "_ ..."]  # a value, or a row, for each record
Columns = dict[str, Column]


@runtime_checkable
class Task(Protocol):
    """A computation on batches of records."""

    name: str  # of the command, in the settings of an output folder

    @property
    def options(self) -> Mapping[str, Any]:
        """JSON values that the results depend on."""

    @property
    def columns(self) -> Mapping[str, pyarrow.DataType]:
        """The columns of the results."""

    def why_unusable(self, record: Record) -> str:
        """The reason why a record with a readable image has no result; empty: it has one."""

    def __call__(self, pixels: Images, records: Sequence[Record], place: str) -> Columns:
        """Computes the columns of a batch; `place` is the shard and number of its first record."""


@dataclasses.dataclass(frozen=True)
class CaptionTask:
    """Captions images; further captions of an image are in the column `others`."""

    model: LoadedModel
    method: str = "greedy"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of `model.caption`
    name = "caption"

    @property
    def options(self) -> Mapping[str, Any]:
        """The method and its options."""
        return {"method": self.method, **self.settings}

    @property
    def columns(self) -> Mapping[str, pyarrow.DataType]:
        """The best caption, and further ones if there are several of an image."""
        caption = {"caption": pyarrow.string(), "log_probability": pyarrow.float32()}
        if max(self.settings.get("n_best", 1), self.settings.get("samples", 1)) == 1:
            return caption
        return {**caption, "others": pyarrow.list_(pyarrow.struct(caption))}

    def why_unusable(self, record: Record) -> str:
        """Every image can be captioned."""
        del record
        return ""

    def __call__(self, pixels: Images, records: Sequence[Record], place: str) -> Columns:
        """Captions and their log-probabilities; samples depend on the place of the batch."""
        del records
        settings = dict(self.settings)
        if self.method == "sample":
            seed = settings.get("seed", 0) + zlib.crc32(place.encode("utf-8", "replace"))
            settings["seed"] = seed % 2**32
        captions = self.model.caption(pixels, self.method, **settings)
        columns: Columns = {
            "caption": [caption.text for caption in captions],
            "log_probability": [caption.log_probability for caption in captions],
        }
        if "others" in self.columns:
            columns["others"] = [
                [{"caption": o.text, "log_probability": o.log_probability} for o in c.others]
                for c in captions
            ]
        return columns


@dataclasses.dataclass(frozen=True)
class EmbedTask:
    """Embeds images; embeddings have unit length."""

    model: LoadedModel
    dtype: str = "float32"  # or float16, of what is stored
    name = "embed"

    @property
    def options(self) -> Mapping[str, Any]:
        """The type of the embeddings."""
        return {"dtype": self.dtype}

    @property
    def columns(self) -> Mapping[str, pyarrow.DataType]:
        """The embedding, a list of fixed size."""
        number = pyarrow.from_numpy_dtype(self.dtype)
        return {"embedding": pyarrow.list_(number, self.model.config.embed_dim)}

    def why_unusable(self, record: Record) -> str:
        """Every image can be embedded."""
        del record
        return ""

    def __call__(self, pixels: Images, records: Sequence[Record], place: str) -> Columns:
        """The column `embedding`, an array [b, e]."""
        del records, place
        return {"embedding": self.model.encode_image(pixels).astype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class ScoreTask:
    """Scores pairs: the cosine similarity of each image and its captions."""

    model: LoadedModel
    name = "score-pairs"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # it has none

    @property
    def columns(self) -> Mapping[str, pyarrow.DataType]:
        """The highest similarity of a record, and that of each caption."""
        number = pyarrow.float32()
        return {"similarity": number, "similarities": pyarrow.list_(number)}

    def why_unusable(self, record: Record) -> str:
        """A record needs a caption."""
        return "" if record["captions"] else record.get("no_text") or "no caption"

    def __call__(self, pixels: Images, records: Sequence[Record], place: str) -> Columns:
        """Each pair's `similarity`, the highest of its captions', which are in `similarities`."""
        del place
        images = self.model.encode_image(pixels)
        counts = [len(record["captions"]) for record in records]
        texts = [text for record in records for text in record["captions"]]
        embedded = [
            self.model.encode_text(self.model.tokenize(texts[i : i + len(records)]))
            for i in range(0, len(texts), len(records))
        ]
        similarities = (np.repeat(images, counts, axis=0) * np.concatenate(embedded)).sum(axis=1)
        lists = np.split(similarities, np.cumsum(counts)[:-1])
        return {
            "similarity": [float(values.max()) for values in lists],
            "similarities": [values.tolist() for values in lists],
        }


def require_contrastive(model: LoadedModel, command: str) -> None:
    """Raises a UserError if the model has no embeddings."""
    if not model.config.has_cls:
        raise UserError(f"coca {command}: the model was trained without the contrastive loss")
