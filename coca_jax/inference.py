"""A model ready for use: `coca_jax.load`, and what it returns."""

import copy
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, UInt8
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import model_config
from coca_jax.data import images
from coca_jax.data.tokenizers import Tokenizer, make_tokenizer
from coca_jax.errors import UserError
from coca_jax.generate import greedy
from coca_jax.models import CoCa, init_params, normalize_pixels
from coca_jax.parallel import Partitioner, make_mesh

Pixels = UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]


@dataclasses.dataclass(frozen=True)
class Caption:
    """A generated caption."""

    text: str
    log_probability: float  # in nats, of the whole text given the image


class LoadedModel:
    """Model, parameters, tokenizer and preprocessing; takes batches of any size.

    Batches are split over the mesh, padded to a power of two per shard so that few sizes compile.
    Images are uint8 [b, h, w, 3] or normalised float32, as `preprocess` returns them.
    """

    def __init__(
        self,
        model: CoCa,
        params: Any,
        tokenizer: Tokenizer,
        partitioner: Partitioner,
        step: int | None = None,
    ):
        self.config, self.step = model.config, step
        self.params, self.tokenizer = params, tokenizer
        self._model, self._partitioner = model, partitioner
        self._compiled = {
            name: jax.jit(function, out_shardings=partitioner.replicated)
            for name, function in self._functions().items()
        }

    def with_params(self, params: Any) -> "LoadedModel":
        """The same model with other parameters; nothing is compiled anew."""
        other = copy.copy(self)
        other.params = params
        return other

    def preprocess(self, paths: Sequence[str | pathlib.Path]) -> Float32[np.ndarray, "b h w 3"]:
        """Reads image files: resized, centre-cropped, normalised.

        Raises:
          UserError: a file cannot be read as an image.
        """
        size = self.config.image.size
        pictures = np.stack([images.resize_for_evaluation(_read_image(p), size) for p in paths])
        normalized = normalize_pixels(
            jnp.asarray(pictures), self.config.image.mean, self.config.image.std
        )
        return np.asarray(normalized)

    def tokenize(self, texts: Sequence[str]) -> Int32[np.ndarray, "b l"]:
        """Token ids, padded or cut to the model's text length."""
        return self.tokenizer.encode(texts, self.config.text.length)

    def encode_image(self, pixels: Pixels) -> Float32[np.ndarray, "b e"]:
        """Image embeddings of unit length.

        Raises:
          UserError: the model was trained without a contrastive loss.
        """
        self._require("contrastive", self.config.contrastive != "none")
        return self._run("encode_image", pixels)

    def encode_text(self, ids: Int[np.ndarray, "b l"]) -> Float32[np.ndarray, "b e"]:
        """Text embeddings of unit length.

        Raises:
          UserError: the model was trained without a contrastive loss.
        """
        self._require("contrastive", self.config.contrastive != "none")
        return self._run("encode_text", ids)

    def caption_logits(
        self, pixels: Pixels, ids: Int[np.ndarray, "b l"]
    ) -> Float32[np.ndarray, "b l v"]:
        """Logits over the vocabulary; position t predicts token t + 1.

        Raises:
          UserError: the model was trained without a captioning loss.
        """
        self._require("captioning", self.config.captioning)
        return self._run("caption_logits", pixels, ids)

    def caption(self, pixels: Pixels, method: str = "greedy") -> list[Caption]:
        """One caption for each image.

        Raises:
          UserError: an unknown method, or a model trained without a captioning loss.
        """
        self._require("captioning", self.config.captioning)
        if method != "greedy":
            raise UserError(f"captioning method {method!r} does not exist; there is 'greedy'")
        ids, nats = self._run("caption", pixels)
        texts = self.tokenizer.decode(ids)
        return [Caption(text, float(nat)) for text, nat in zip(texts, nats, strict=True)]

    def _functions(self) -> dict[str, Callable]:
        """What is compiled: of parameters and a batch; uint8 images are normalised there."""
        image, tokenizer = self.config.image, self.tokenizer

        def apply(method: str, params: Any, *args: Array) -> Array:
            return self._model.apply({"params": params}, *args, method=method)

        def normalized(pixels: Array) -> Array:
            if pixels.dtype != jnp.uint8:
                return pixels
            return normalize_pixels(pixels, image.mean, image.std)

        def caption(params: Any, pixels: Array) -> tuple[Array, Array]:
            special = tokenizer.bos_id, tokenizer.eos_id
            length = self.config.text.length
            made = greedy(self._model, params, normalized(pixels), *special, length)
            return made.ids, made.log_probabilities

        return {
            "encode_image": lambda params, x: apply("encode_image", params, normalized(x)),
            "encode_text": lambda params, ids: apply("encode_text", params, ids),
            "caption_logits": lambda params, x, ids: apply(
                "caption_logits", params, normalized(x), ids
            ),
            "caption": caption,
        }

    def _run(self, name: str, *arrays: np.ndarray) -> Any:
        """Runs a compiled function on a batch, padded as the class says."""
        size, shards = len(arrays[0]), self._partitioner.batch_shards
        padded = shards
        while padded < size:
            padded *= 2
        grown = [np.concatenate([a, np.repeat(a[:1], padded - size, axis=0)]) for a in arrays]
        with self._partitioner.context():
            result = self._compiled[name](self.params, *self._partitioner.put_batch(grown))
        return jax.tree.map(lambda x: np.asarray(x)[:size], result)

    def _require(self, loss: str, trained: bool) -> None:
        if not trained:
            raise UserError(f"this model was trained without the {loss} loss and lacks that part")


def load(
    path: str | pathlib.Path,
    step: int | None = None,
    *,
    average: bool = True,
    devices: Sequence[jax.Device] | None = None,
) -> LoadedModel:
    """The model of a run, at its newest sound checkpoint or the given one.

    Args:
      path: a workdir, or one of its `checkpoints/<step>`.
      step: which checkpoint of a workdir.
      average: whether to prefer the moving average of the parameters, where there is one.
      devices: to spread batches over; all of this process's by default.

    Raises:
      UserError: there is no such model, or its files are damaged.
    """
    path = pathlib.Path(path).absolute()
    if path.parent.name == "checkpoints" and path.name.isdigit():
        path, step = path.parent.parent, int(path.name)
    config = read_config(path)
    tokenizer = make_tokenizer(config.data.tokenizer.kind, path / "tokenizer.model")
    devices = jax.local_devices() if devices is None else devices
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices))
    model = CoCa(model_config(config))
    with partitioner.context():
        target = partitioner.abstract(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    with CheckpointStore(path / "checkpoints") as store:
        if step is None:
            step = store.latest_sound(report=lambda line: print(line, file=sys.stderr))
        if step is None:
            raise UserError(f"{path / 'checkpoints'} holds no sound checkpoint; train first")
        item = "ema" if average and config.optimizer.ema_decay else "params"
        params = store.restore(step, {item: target})[item]
    return LoadedModel(model, params, tokenizer, partitioner, step)


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The resolved configuration of a run.

    Raises:
      UserError: the folder is no workdir.
    """
    file = workdir / "config.json"
    if not file.is_file():
        raise UserError(f"{workdir} holds no config.json; is it the workdir of a run?")
    return ConfigDict(json.loads(file.read_text())["config"])


def _read_image(path: str | pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return images.decode(pathlib.Path(path).read_bytes())
    except (OSError, images.BadExample) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error
