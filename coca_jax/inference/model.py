"""`LoadedModel`, which `coca_jax.load` returns: a model, its tokenizer and its preprocessing."""

import copy
import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from coca_jax.data.examples import lengths
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.distributed import Partitioner
from coca_jax.errors import UserError
from coca_jax.generate import Decoding, make_method
from coca_jax.generate.decoding import require
from coca_jax.inference.compiled import Compiled
from coca_jax.inference.image_files import Paths, read_images, require_pixels
from coca_jax.inference.sources import Source
from coca_jax.inference.texts import (
    as_texts,
    candidate_ids,
    prompt_ids,
    require_ids,
    require_texts,
)
from coca_jax.inference.words import mean_by_word
from coca_jax.models import CoCa, normalize_pixels
from coca_jax.patches import Images, Patches, of_grid

SCORING_BYTES = 2**28  # bytes of logits at a time
Pixels = (
    UInt8[np.ndarray, "b *num_images h w 3"] | Float32[np.ndarray, "b *num_images h w 3"] | Patches
)


@dataclasses.dataclass(frozen=True)
class Caption:
    """A generated caption."""

    text: str
    log_probability: float  # in nats, of the text after the prompt, given the image
    others: tuple["Caption", ...] = ()  # further captions of the same image, if requested


class LoadedModel:
    """Model, parameters, tokenizer and preprocessing; takes batches of any size.

    Batches are split over the mesh, padded to a power of two per shard so that few sizes compile.
    Images are uint8 [b, h, w, 3] or normalized float32, as `preprocess` returns them; those of a
    model that takes images as they are, `Patches` of either type. A UserError refuses other shapes.
    """

    def __init__(
        self,
        model: CoCa,
        params: Any,
        tokenizer: Tokenizer,
        partitioner: Partitioner,
        step: int | None = None,
        identity: str = "",
        classes: Sequence[str] = (),
        source: Source | None = None,
    ):
        self.config, self.step = model.config, step
        self.classes = tuple(classes)  # names of its head's classes
        self.identity = identity  # differs for other parameters; empty: they may change
        self.source = source  # where they come from; None: they are a run's in progress
        self.params, self.tokenizer = params, tokenizer
        self._compiled = Compiled(model, partitioner)

    def with_params(self, params: Any) -> "LoadedModel":
        """Returns this model with other parameters; the compiled programs are shared."""
        other = copy.copy(self)
        other.params, other.identity, other.source = params, "", None
        return other

    def preprocess(
        self, paths: Paths, num_frames: int = 1
    ) -> Float32[np.ndarray, "b *num_frames h w 3"] | Patches:
        """Reads image files: resized as the model's configuration says, normalized.

        With `model.image.sequence_lengths` each image has a grid of patches of its own, at most the
        longest sequence, and they come as `Patches`.

        Args:
          paths: of images, or one; or of videos, or folders of their frames.
          num_frames: how many to take of each, evenly spaced; more than one have their own axis.

        Raises:
          UserError: a file cannot be read as an image.
        """
        pixels, errors = self.read_images(paths, num_frames)
        for error in filter(None, errors):
            raise error
        return pixels

    def read_images(
        self, paths: Paths, num_frames: int = 1
    ) -> tuple[Float32[np.ndarray, "b *num_frames h w 3"] | Patches, list[UserError | None]]:
        """Reads image files as `preprocess` does, and leaves out those that cannot be read.

        Args:
          paths: as of `preprocess`.
          num_frames: as of `preprocess`.

        Returns:
          The images that could be read, and for each path None, or why it could not; the cause of
          that is an OSError if it was not the content.

        Raises:
          UserError: several frames, of a model that takes images as they are.
        """
        pixels, errors = read_images(paths, self.config.image, num_frames)
        pixels = jax.tree.map(jnp.asarray, pixels)
        normalized = normalize_pixels(pixels, self.config.image.mean, self.config.image.std)
        return jax.tree.map(np.asarray, normalized), errors

    def tokenize(self, texts: str | Sequence[str]) -> Int32[np.ndarray, "b l"]:
        """Token ids, padded or cut to the model's text length; of a `str`, those of one text.

        Raises:
          UserError: the tokenizer is another model's.
        """
        self._require_vocabulary()
        return self.tokenizer.encode(as_texts(texts), self.config.text.context_length)

    def encode_image(self, pixels: Pixels) -> Float32[np.ndarray, "b e"]:
        """Image embeddings of unit length.

        Of several images each, [b, images, h, w, 3], the mean embedding, brought to unit
        length: zero-shot video as in arXiv 2205.01917, section 4.2.

        Raises:
          UserError: the model was trained without a contrastive loss.
        """
        self._require("contrastive", self.config.has_cls)
        if isinstance(pixels, Patches) or pixels.ndim != 5:
            return self._run("encode_image", (pixels,))
        embeddings = self._run("encode_image", (pixels.reshape(-1, *pixels.shape[-3:]),))
        means = embeddings.reshape(*pixels.shape[:2], -1).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)

    def image_tokens(self, pixels: Pixels) -> Float32[np.ndarray, "b t d"]:
        """The image encoder's output: every token of every image, that of padding included."""
        return self._run("image_tokens", (pixels,))

    def encode_text(self, ids: Int[np.ndarray, "b l"]) -> Float32[np.ndarray, "b e"]:
        """Text embeddings of unit length.

        Raises:
          UserError: the model was trained without a contrastive loss; or texts instead of ids.
        """
        self._require("contrastive", self.config.has_cls)
        require_ids(ids)
        return self._run("encode_text", (ids,))

    def caption_logits(
        self, pixels: Pixels, ids: Int[np.ndarray, "b l"]
    ) -> Float32[np.ndarray, "b l v"]:
        """Logits over the vocabulary; position t predicts token t + 1.

        Raises:
          UserError: the model was trained without a captioning loss; or texts instead of ids.
        """
        self._require("captioning", self.config.captioning)
        require_ids(ids)
        return self._run("caption_logits", (pixels, ids))

    def caption(
        self,
        pixels: Pixels,
        method: str = "greedy",
        *,
        prompt: str | Sequence[str] = "",
        length: int | None = None,
        min_length: int = 0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[Caption]:
        """Generates a caption for each image.

        With `n_best` or `samples` above 1, the others are in the first caption's `others`. The
        begin token and padding are never generated.

        Args:
          pixels: the images.
          method: greedy, sample or beam.
          prompt: what captions begin with: one for all images, or one for each.
          length: the most tokens of a text, including begin, prompt and end; by default the model's
            text length.
          min_length: the fewest tokens before the end, including begin and prompt.
          repetition_penalty: above 1, repeated tokens become less likely; see `generate.Decoding`.
          seed: of sampling, below 2**32; None: 0.
          **options: of the method; see `generate.Sampling` and `generate.Beams`.

        Raises:
          UserError: an option that does not exist or makes no sense, a prompt that is too long, or
            a model trained without a captioning loss.
        """
        self._require("captioning", self.config.captioning)
        self._require_vocabulary()
        key = _key(0 if seed is None else seed)
        context_length = self.config.text.context_length
        generated = self._run(
            "caption",
            (pixels, *prompt_ids(self.tokenizer, prompt, len(pixels), context_length)),
            (key,),
            decoding=self.decoding(length, min_length, repetition_penalty),
            method=make_method(method, options if seed is None else {**options, "seed": seed}),
        )
        rows = zip(generated.ids, generated.log_probabilities, strict=True)
        return [self._captions(*row) for row in rows]

    def decoding(
        self, length: int | None = None, min_length: int = 0, repetition_penalty: float = 1.0
    ) -> Decoding:
        """The limits of generated texts; padding and the begin token are never generated."""
        tokenizer, text = self.tokenizer, self.config.text
        # Also ids that the tokenizer has no word for, where the model's vocabulary is larger.
        without_word = range(tokenizer.vocab_size, text.vocab_size)
        return Decoding(
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            length=text.context_length if length is None else length,
            min_length=min_length,
            suppress=(tokenizer.pad_id, tokenizer.bos_id, *without_word),
            repetition_penalty=repetition_penalty,
        )

    def classify(
        self, pixels: Pixels, texts: str | Sequence[str] = ""
    ) -> Float32[np.ndarray, "b classes"]:
        """Logits of the head's classes, whose names are `classes`.

        Args:
          pixels: of b examples, [b, h, w, 3]; of several images each, [b, images, h, w, 3].
          texts: such as questions, for a head that reads text: one for all examples, or one each.

        Raises:
          UserError: the model has no head, or there are not as many images or texts as it reads.
        """
        self._require("classification", self.config.head is not None)
        several = not isinstance(pixels, Patches) and pixels.ndim == 5
        head, num_images = self.config.head, pixels.shape[1] if several else 1
        if num_images != head.num_images:
            raise UserError(
                f"the model's head reads {head.num_images} images of an example, and these have "
                f"{num_images}; data.num_images says how many"
            )
        if head.input == "image":
            ids = np.zeros((len(pixels), 1), np.int32)
            return self._run("classify", (pixels, ids, np.zeros(len(pixels), np.int32)))
        if not texts:
            raise UserError("the model's head reads texts about the images, and there are none")
        ids = self.tokenize([texts] * len(pixels) if isinstance(texts, str) else texts)
        prefix_length = lengths(ids, self.tokenizer).astype(np.int32)
        return self._run("classify", (pixels, ids, prefix_length))

    def log_probabilities(
        self,
        pixels: Pixels,
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        prompt: str | Sequence[str] = "",
    ) -> Float32[np.ndarray, "b k"]:
        """log p(text | image) in nats of every text, the end of the text included.

        To choose among captions or answers, or to tell whether an image and a text match; an image
        is encoded once for all of its texts. Texts are cut as `tokenize` cuts them, so that they
        fit behind the prompt.

        Args:
          pixels: b images.
          texts: k texts for all images, or k for each; a `str` is one text for all.
          prompt: what comes before the texts, and is not counted: one for all images, or one each.

        Raises:
          UserError: there are no texts, not as many for each image, or the prompt is too long; or a
            model trained without a captioning loss.
        """
        self._require("captioning", self.config.captioning)
        self._require_vocabulary()
        context_length = self.config.text.context_length
        ids, prompt_lengths = prompt_ids(self.tokenizer, prompt, len(pixels), context_length)
        batch, texts = (pixels, ids, prompt_lengths), as_texts(texts)
        shared = all(isinstance(text, str) for text in texts)
        room = context_length - ids.shape[1]
        candidates, lengths = candidate_ids(self.tokenizer, [texts] if shared else texts, room)
        return self._run(
            "score",
            batch if shared else (*batch, candidates, lengths),
            (candidates[0], lengths[0]) if shared else (),
            even=bool((prompt_lengths == prompt_lengths[0]).all()),
            chunk_size=self._chunk_size(candidates, len(pixels)),
        )

    def matching_logits(
        self, pixels: Pixels, texts: str | Sequence[str] | Sequence[Sequence[str]]
    ) -> Float32[np.ndarray, "b k"]:
        """Logits of the matching head: above 0, an image and a text belong together.

        An image is encoded once for all of its texts.

        Args:
          pixels: b images.
          texts: k texts for all images, or k for each; a `str` is one text for all.

        Raises:
          UserError: there are no texts, or not as many for each image; or a model trained without a
            matching loss.
        """
        self._require("matching", self.config.matching_block > 0)
        texts = as_texts(texts)
        shared = all(isinstance(text, str) for text in texts)
        rows = [texts] * len(pixels) if shared else texts
        if len(rows) != len(pixels):
            raise UserError(f"there are texts for {len(rows)} images, and {len(pixels)} images")
        require_texts(rows)
        ids = self.tokenize([text for row in rows for text in row])
        return self._run("match", (pixels, ids.reshape(len(rows), -1, ids.shape[-1])))

    def _chunk_size(self, candidates: Int32[np.ndarray, "n k t"], images: int) -> int:
        """The number of candidates of each image whose logits fit into SCORING_BYTES."""
        _, count, size = candidates.shape
        per_image = 4 * size * self.config.text.vocab_size
        fitting = SCORING_BYTES // (per_image * self._compiled.padded_size(images))
        return min(count, max(1, fitting))

    def losses(
        self, losses: Mapping[str, Any], batch: Mapping[str, Images]
    ) -> dict[str, tuple[dict[str, float], int]]:
        """Losses of one batch, as a train step computes them; see `Compiled.losses`."""
        return self._compiled.losses(self.params, losses, batch)

    def attention_maps(
        self, pixels: Pixels, texts: Sequence[str]
    ) -> list[list[tuple[str, Float32[np.ndarray, "rows columns"]]]]:
        """Maps of the decoder's attention to the image, for each word of each image's text.

        A map sums to 1 over the image's patches, and is the mean of the positions that predict the
        word's tokens; `models.attention_maps` says what it means and what not.

        Args:
          pixels: the images.
          texts: one for each, such as its caption; cut as `tokenize` cuts it.

        Raises:
          UserError: not as many texts as images, or a model trained without a captioning loss.
        """
        self._require("captioning", self.config.captioning)
        ids = self.tokenize(texts)
        maps = self._run("attention_maps", (pixels, ids))
        if isinstance(pixels, Patches):
            maps = [of_grid(row, grid) for row, grid in zip(maps, pixels.grid, strict=True)]
        return [mean_by_word(self.tokenizer, *row) for row in zip(ids, maps, strict=True)]

    def forget_programs(self) -> None:
        """Drops what has been compiled, such as for options that will not be asked for again."""
        self._compiled.forget()

    def _captions(self, ids: np.ndarray, nats: np.ndarray) -> Caption:
        """The first caption of one image, with the others in it."""
        texts = self.tokenizer.decode(ids)
        first, *others = (Caption(t, float(n)) for t, n in zip(texts, nats, strict=True))
        return dataclasses.replace(first, others=tuple(others))

    def _run(self, name: str, batch: Sequence[Images], *whole: Any, **static: Any) -> Any:
        if name != "encode_text":
            require_pixels(batch[0], self.config.image, several=name == "classify")
        return self._compiled.run(name, self.params, batch, *whole, **static)

    def _require_vocabulary(self) -> None:
        has, needed = self.config.text.vocab_size, self.tokenizer.vocab_size
        if needed > has:
            raise UserError(
                f"the tokenizer has {needed} ids and the model {has}: it is another model's"
            )

    def _require(self, loss: str, trained: bool) -> None:
        if not trained:
            raise UserError(f"this model was trained without the {loss} loss and lacks that part")


def _key(seed: int) -> jax.Array:
    """The random key of a seed; raises a UserError if it is not a valid seed."""
    is_seed = isinstance(seed, numbers.Integral) and 0 <= seed < 2**32
    require(is_seed, "seed", seed, f"a whole number from 0 to {2**32 - 1}")
    return jax.random.key(seed)
