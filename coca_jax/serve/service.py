"""The service behind the endpoints: the model in its batches, the limits, decoding."""

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coca_jax.data.transforms.images import Resizing, prepare
from coca_jax.errors import UserError
from coca_jax.image_search import ImageIndex
from coca_jax.inference import LoadedModel
from coca_jax.io.cores import available_cores
from coca_jax.patches import Images
from coca_jax.serve import images
from coca_jax.serve.batching import Batcher
from coca_jax.serve.errors import RequestError
from coca_jax.serve.limits import Admission, Limits
from coca_jax.serve.metrics import Metrics
from coca_jax.serve.operations import Key, Operations
from coca_jax.serve.urls import Fetcher

# The options of the page's captions, by method.
PAGE_CAPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"beams": 6, "n_best": 3},
    "sample": {"samples": 3, "temperature": 0.8},
}
DECODERS = min(4, available_cores())  # threads; each may hold a whole decoded image


@dataclasses.dataclass(frozen=True)
class Served:
    """A model and what is known about it.

    Attributes:
      name: of the model, for people.
      writes_answers: whether it was trained to write the answer after a question.
    """

    model: LoadedModel
    name: str = "model"
    writes_answers: bool = False
    index: ImageIndex | None = None

    @property
    def indexed(self) -> int:
        """The number of images in the index; 0 without one."""
        return len(self.index) if self.index is not None else 0

    @property
    def answers_by_head(self) -> bool:
        """Whether a head chooses answers to questions about an image."""
        head = self.model.config.head
        return bool(head and head.input == "text" and head.num_images == 1 and self.model.classes)

    @property
    def abilities(self) -> dict[str, str]:
        """For each endpoint why the model cannot serve it; empty if it can."""
        config = self.model.config
        contrastive = "" if config.has_cls else "the model was trained without a contrastive loss"
        captioning = "" if config.captioning else "the model was trained without a captioning loss"
        answers = self.answers_by_head or (self.writes_answers and config.captioning)
        return {
            "embed": contrastive,
            "similarity": contrastive,
            "classify": contrastive and captioning,
            "caption": captioning,
            "attention": captioning,
            "answer": "" if answers else "the model was not trained to answer questions",
            "search": contrastive or ("" if self.indexed else "the server has no index of images"),
        }


class Service:
    """The model's batcher, the decoders and the limits of one server."""

    def __init__(self, served: Served, limits: Limits, fetch: Fetcher | None = None):
        """Starts the threads."""
        self.served, self.limits = served, limits
        self.admission, self.metrics = Admission(limits.queue), Metrics()
        self.operations = Operations(served.model, served.index)
        # The factor of cosine similarities before a softmax over texts; on the host, since requests
        # must not wait for the device.
        contrastive = served.model.config.has_cls
        self.scale = float(np.exp(served.model.params["logit_scale"])) if contrastive else 1.0
        self._fetch = fetch or Fetcher(limits.max_bytes)
        self._batcher = Batcher(
            self.operations, limits.max_batch, limits.max_latency, self.metrics.batch
        )
        self._decoders = concurrent.futures.ThreadPoolExecutor(DECODERS, "decode")
        self._fetchers = concurrent.futures.ThreadPoolExecutor(DECODERS, "fetch")
        self.metrics.watch(lambda: self.admission.count, self._batcher.waiting)

    def warm_up(self, report: Callable[[str], None] = lambda line: None) -> None:
        """Compiles programs for all sizes of batches, and for one image what the page asks for."""
        abilities, most = self.served.abilities, self.limits.max_batch
        config = self.served.model.config.image
        blank = np.zeros((*config.pixels, 3), np.uint8)
        image = prepare(blank, config.target, Resizing.of(config))
        for size in (*(2**i for i in range((most - 1).bit_length())), most):
            report(f"compiling for batches of {size}")
            if not abilities["embed"]:
                self._wait("embed_image", [image] * size)
                self._wait("embed_text", [""] * size)
            if not abilities["caption"]:
                self._wait("caption", [(image, "")] * size, method="greedy")
        if not abilities["caption"]:
            for size in (1, 2, 4, 8):  # captions of the page
                self._wait("attention_maps", [(image, "a")] * min(size, most))
            for method, options in PAGE_CAPTIONS.items():
                self._wait("caption", [(image, "")], method=method, **options)

    def _wait(self, operation: str, rows: Sequence[Any], **options: Any) -> None:
        self._batcher.submit(_key(operation, options), rows).result()

    async def run(self, operation: str, rows: Sequence[Any], alone: Any = None, **options: Any):
        """The results of the rows, from batches with those of other requests.

        Args:
          operation: a method of `Operations`.
          rows: of the operation.
          alone: if given, the rows are a batch by themselves.
          **options: of the operation; only rows with equal ones share a batch.

        Raises:
          RequestError: the model refuses an option or a text (422).
        """
        key = _key(operation, options, alone)
        try:
            return await asyncio.wrap_future(self._batcher.submit(key, rows))
        except UserError as error:
            raise RequestError(422, str(error)) from error

    def require_fits(self, rows: Sequence[Any], what: str) -> None:
        """Raises a RequestError if a request has more rows than a batch (422)."""
        if len(rows) > self.limits.max_batch:
            raise RequestError(
                422, f"a request has at most {self.limits.max_batch} {what}, not {len(rows)}"
            )

    async def pixels(self, sources: Sequence[str | bytes]) -> list[Images]:
        """The images of a request as the model reads them.

        Raises:
          RequestError: there are too many, or one cannot be fetched, decoded or accepted.
        """
        self.require_fits(sources, "images")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._pixels(source, f"images[{number}]"))
                    for number, source in enumerate(sources)
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _pixels(self, source: str | bytes, what: str) -> Images:
        if images.is_url(source):
            if not self.limits.allow_urls:
                raise RequestError(422, f"{what}: this server takes no URLs; send the file")
            loop = asyncio.get_running_loop()
            source = await loop.run_in_executor(self._fetchers, self._fetch, source)
        return await self.decoded(self._prepare, source, what)

    def require_running(self) -> None:
        """Raises a RequestError (503) if the model's thread has ended, so that nothing runs."""
        if not self._batcher.is_alive():
            raise RequestError(
                503, "the model's thread has ended; the server must be started again"
            )

    async def decoded(self, function: Any, *args: Any) -> Any:
        """Runs a function in a decoder's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, function, *args)

    def _prepare(self, source: str | bytes, what: str) -> Images:
        data = images.from_base64(source, what) if isinstance(source, str) else source
        image = images.decode(data, what, self.limits.max_pixels)
        config = self.served.model.config.image
        return prepare(image, config.target, Resizing.of(config))

    def close(self) -> None:
        """Finishes what was submitted and ends the threads."""
        self._batcher.close()
        for threads in (self._decoders, self._fetchers):
            threads.shutdown(wait=False, cancel_futures=True)


def _key(operation: str, options: dict[str, Any], alone: Any = None) -> Key:
    return Key(operation, tuple(sorted(options.items())), alone)
