"""The functions of a loaded model, compiled for few batch sizes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from coca_jax.distributed import Partitioner
from coca_jax.distributed.sharding import Rules
from coca_jax.errors import UserError
from coca_jax.generate import Decoding, Generated, Method, Prompt, generate, score
from coca_jax.models import CoCa, attention_maps, normalize_pixels
from coca_jax.models.inputs import call_inputs, with_masks
from coca_jax.models.int8 import dequantized
from coca_jax.patches import Images, Patches

Pixels = Array | Patches
STATIC = {
    "caption": ("decoding", "method"),
    "losses": ("losses",),
    "score": ("even", "chunk_size"),
}


class Compiled:
    """A model's functions, for batches that are sharded over the mesh.

    Each shard is padded to a power of two. Models of the same configuration on the same mesh share
    their compiled programs.
    """

    def __init__(self, model: CoCa, partitioner: Partitioner):
        """Compiles nothing yet; that happens at the first batch of each size."""
        self._model, self._partitioner = model, partitioner
        self._functions = _jitted(model, partitioner.mesh, partitioner.rules)

    def run(
        self,
        name: str,
        params: Any,
        batch: Sequence[Images],
        whole: Sequence[Any] = (),
        **static: Any,
    ) -> Any:
        """Runs a function on a batch of any size.

        Args:
          name: of the function.
          params: the model's.
          batch: arrays with one row for each image or text.
          whole: arrays that are not split over the mesh.
          **static: what the function is compiled for.

        Raises:
          UserError: the arrays of the batch are not of one length, or empty.
        """
        sizes = [len(array) for array in batch]
        if len(set(sizes)) > 1 or not sizes[0]:
            raise UserError(f"images and texts should be as many, and at least one; are {sizes}")
        size, padded = sizes[0], self.padded_size(sizes[0])

        def grow(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array, np.repeat(array[:1], padded - size, axis=0)])

        grown = jax.tree.map(grow, list(batch))  # `Patches` are two arrays
        with self._partitioner.context():
            arrays = self._partitioner.put_whole(grown)
            result = self._functions[name](params, *arrays, *whole, **static)
        return jax.tree.map(lambda x: np.asarray(x)[:size], result)

    def losses(
        self, params: Any, losses: Mapping[str, Any], batch: Mapping[str, Images]
    ) -> dict[str, tuple[dict[str, float], int]]:
        """Losses of one batch, as a train step without dropout computes them.

        But for a matching head, whose most similar wrong pairs are judged; training draws them.

        Rows are never added, since losses would count them: a batch that the shards do not divide
        is whole on every device.

        Args:
          params: the model's.
          losses: `coca_jax.losses.Loss` objects by name.
          batch: the whole batch: `image` and `text`, for a head `label` and `prefix_length`, and
            with groups of pairs `group`, with wrong captions `negative_text`.

        Returns:
          For each loss its value `NAME_loss` with its metrics, and the number of things that these
          are means over.

        Raises:
          UserError: the model was trained without one of the losses.
        """
        partitioner = self._partitioner
        if len(batch["text"]) % partitioner.batch_shards:
            rules = tuple(row for row in partitioner.rules if row[0] != "batch")
            partitioner = Partitioner(partitioner.mesh, (("batch", None), *rules))
        function = _jitted(self._model, partitioner.mesh, partitioner.rules)["losses"]
        with partitioner.context():
            arrays = partitioner.put_whole(dict(batch))
            values = jax.device_get(function(params, arrays, losses=tuple(losses.items())))
        return {
            name: ({key: float(value) for key, value in metrics.items()}, int(count))
            for name, (metrics, count) in values.items()
        }

    def forget(self) -> None:
        """Drops the compiled programs, which take memory; they are compiled again when needed."""
        for function in self._functions.values():
            function.clear_cache()

    def padded_size(self, size: int) -> int:
        """The size that a batch of this size is padded to."""
        padded = self._partitioner.batch_shards
        while padded < size:
            padded *= 2
        return padded


@functools.lru_cache(maxsize=32)  # more models than a sweep has runs
def _jitted(model: CoCa, mesh: Mesh, rules: Rules) -> dict[str, Callable]:
    """The functions of equal models; `rules` are the ones that tracing finds in its context."""
    replicated, functions = Partitioner(mesh, rules).replicated, _Functions(model)
    return {
        name: jax.jit(
            _of_floats(getattr(functions, name)),
            out_shardings=replicated,
            static_argnames=STATIC.get(name),
        )
        for name in vars(_Functions)
        if not name.startswith("_")
    }


def _of_floats(function: Callable) -> Callable:
    """A function of parameters that may be int8; it computes with floats."""

    @functools.wraps(function)
    def call(params: Any, *args: Any, **options: Any) -> Any:
        return function(dequantized(params), *args, **options)

    return call


class _Functions:
    """The functions of parameters and a batch that are compiled; uint8 images are normalized."""

    def __init__(self, model: CoCa):
        self._model = model

    def encode_image(self, params: Any, pixels: Pixels) -> Array:
        return self._apply("encode_image", params, self._normalized(pixels))

    def image_tokens(self, params: Any, pixels: Pixels) -> Array:
        return self._apply("image_tokens", params, self._normalized(pixels))

    def classify(self, params: Any, pixels: Pixels, ids: Array, prefix_length: Array) -> Array:
        return self._apply("classify", params, self._normalized(pixels), ids, prefix_length)

    def encode_text(self, params: Any, ids: Array) -> Array:
        return self._apply("encode_text", params, ids)

    def caption_logits(self, params: Any, pixels: Pixels, ids: Array) -> Array:
        return self._apply("caption_logits", params, self._normalized(pixels), ids)

    def match(self, params: Any, pixels: Pixels, ids: Array) -> Array:
        texts = ids.reshape(-1, ids.shape[-1])  # [b, k, l]: k of each image
        logits = self._apply("match", params, self._normalized(pixels), texts)
        return logits.reshape(ids.shape[:2])

    def attention_maps(self, params: Any, pixels: Pixels, ids: Array) -> Array:
        return attention_maps(self._model, params, self._normalized(pixels), ids)

    def caption(
        self,
        params: Any,
        pixels: Pixels,
        ids: Array,
        lengths: Array,
        key: Array,
        *,
        decoding: Decoding,
        method: Method,
    ) -> Generated:
        prompt, pixels = Prompt(ids, lengths), self._normalized(pixels)
        return generate(self._model, params, pixels, decoding, method, prompt, key)

    def score(
        self,
        params: Any,
        pixels: Pixels,
        ids: Array,
        lengths: Array,
        candidates: Array,
        candidate_lengths: Array,
        *,
        even: bool,
        chunk_size: int,
    ) -> Array:
        prompt, pixels = Prompt(ids, None if even else lengths), self._normalized(pixels)
        scores = score(
            self._model, params, pixels, prompt, candidates, candidate_lengths, chunk_size
        )
        return scores.log_probabilities

    def losses(
        self, params: Any, batch: dict[str, Any], *, losses: tuple[tuple[str, Any], ...]
    ) -> dict[str, tuple[dict[str, Array], Array]]:
        config, pixels = self._model.config, self._normalized(batch["image"])
        batch = with_masks(config, batch)
        inputs = call_inputs(config, batch)
        output = self._model.apply({"params": params}, pixels, batch["text"], **inputs)
        results = {}
        for name, loss in losses:
            if any(getattr(output, part) is None for part in loss.reads):
                raise UserError(
                    f"config.loss.{name}.weight={loss.weight}, and the model was trained without "
                    "that loss"
                )
            value, metrics = loss(output, batch)
            results[name] = {f"{name}_loss": value} | metrics, loss.count(batch)
        return results

    def _apply(self, method: str, params: Any, *args: Pixels) -> Array:
        return self._model.apply({"params": params}, *args, method=method)

    def _normalized(self, pixels: Pixels) -> Pixels:
        if jax.tree.leaves(pixels)[0].dtype != jnp.uint8:
            return pixels
        image = self._model.config.image
        return normalize_pixels(pixels, image.mean, image.std)
