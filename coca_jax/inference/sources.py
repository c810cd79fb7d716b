"""The places that a model's parameters come from: a run's checkpoint, or OpenCLIP's weights."""

import abc
import dataclasses
import functools
import hashlib
import sys
from collections.abc import Container
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import model_config
from coca_jax.data.tokenizers import Tokenizer, make_tokenizer, tokenizers
from coca_jax.errors import UserError
from coca_jax.interop.open_clip_model import OpenClipModel
from coca_jax.io.files import cache_folder
from coca_jax.models import init_params, int8, make_model


class Source(abc.ABC):
    """A model's stored parameters, and the configuration that says what they are of."""

    step: int
    config: ConfigDict

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Its name in messages."""

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """A checksum of its parameters, which differs from that of other parameters."""

    @property
    @abc.abstractmethod
    def workdir(self) -> epath.Path:
        """The folder for what is computed of the model, such as an index of images."""

    @property
    @abc.abstractmethod
    def tokenizer_file(self) -> epath.Path | None:
        """The file of its tokenizer; None: the kind needs none."""

    @abc.abstractmethod
    def item(self, use_ema: bool) -> str:
        """The item with the parameters: "ema" if it is wanted and there, else "params"."""

    @abc.abstractmethod
    def shapes(self, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of each stored parameter, by its path such as "decoder/norm/scale"."""

    @abc.abstractmethod
    def restore(self, item: str, target: Any, partial: bool = False) -> Any:
        """Reads parameters.

        Args:
          item: see `item`.
          target: a tree of jax.ShapeDtypeStructs with shardings: what to read, and to where.
          partial: whether there may be more parameters than the target has.

        Raises:
          UserError: files are damaged, or the target is not what is stored.
        """

    def restore_as_stored(self, item: str, target: Any) -> Any:
        """Like `restore`, but matrices that are stored as int8 stay so; see `models.int8`."""
        return self.restore(item, target)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
          UserError: its file is missing or broken.
        """
        return make_tokenizer(self.config.data.tokenizer.kind, self.tokenizer_file)


@dataclasses.dataclass(frozen=True)
class Checkpoint(Source):
    """A saved step of a run, or a converted model."""

    folder: epath.Path  # the run's
    step: int
    config: ConfigDict
    store: CheckpointStore  # reads the files once to verify them

    @property
    def title(self) -> str:
        """See `Source.title`."""
        return f"{self.folder}, step {self.step}"

    @property
    def identity(self) -> str:
        """See `Source.identity`."""
        manifest = self.store.directory / str(self.step) / "manifest.json"
        return hashlib.sha256(manifest.read_bytes()).hexdigest()

    @property
    def workdir(self) -> epath.Path:
        """The run's folder."""
        return self.folder

    @property
    def tokenizer_file(self) -> epath.Path | None:
        """See `Source.tokenizer_file`."""
        name = tokenizers[self.config.data.tokenizer.kind].file_name
        return self.folder / name if name else None

    def item(self, use_ema: bool) -> str:
        """See `Source.item`."""
        return "ema" if use_ema and self.config.optimizer.ema_decay else "params"

    def shapes(self, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """See `Source.shapes`."""
        return self.store.shapes(self.step, item)

    def restore(self, item: str, target: Any, partial: bool = False) -> Any:
        """See `Source.restore`."""
        return self.store.restore(self.step, {item: target}, partial)[item]


@dataclasses.dataclass(frozen=True)
class QuantizedCheckpoint(Checkpoint):
    """A converted model whose matrices are stored as int8; see `models.int8`."""

    def shapes(self, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """See `Source.shapes`; those of the floats."""
        stored = super().shapes(item)
        floats = {name.removesuffix(f"/{int8.VALUES}"): leaf for name, leaf in stored.items()}
        return {
            name: jax.ShapeDtypeStruct(leaf.shape, np.float32)
            for name, leaf in floats.items()
            if not self._is_scale(name, stored)
        }

    def restore(self, item: str, target: Any, partial: bool = False) -> Any:
        """See `Source.restore`; floats are made of the int8."""
        stored = self._restored(item, target, partial)

        def floats(stored: Any) -> Any:
            return jax.tree.map(lambda x, t: x.astype(t.dtype), int8.dequantized(stored), target)

        shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
        return jax.jit(floats, out_shardings=shardings)(stored)

    def restore_as_stored(self, item: str, target: Any) -> Any:
        """See `Source.restore_as_stored`."""
        return self._restored(item, target, partial=False)

    def _restored(self, item: str, target: Any, partial: bool) -> Any:
        stored = super().shapes(item)

        def parts(path: Any, leaf: jax.ShapeDtypeStruct) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if f"{name}/{int8.VALUES}" not in stored:
                return leaf
            scale, whole = stored[f"{name}/{int8.SCALE}"], whole_sharding(leaf.sharding)
            return {
                int8.VALUES: jax.ShapeDtypeStruct(leaf.shape, np.int8, sharding=leaf.sharding),
                int8.SCALE: jax.ShapeDtypeStruct(scale.shape, np.float32, sharding=whole),
            }

        tree = jax.tree_util.tree_map_with_path(parts, target)
        return super().restore(item, tree, partial)

    @staticmethod
    def _is_scale(name: str, stored: Container[str]) -> bool:
        matrix, _, last = name.rpartition("/")
        return last == int8.SCALE and f"{matrix}/{int8.VALUES}" in stored


def whole_sharding(sharding: Any) -> Any:
    """The sharding of a small array that goes with one of this sharding: a copy on each device."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


@dataclasses.dataclass(frozen=True)
class OpenClipWeights(Source):
    """OpenCLIP's weights of a CoCa, which are converted as they are read."""

    model: OpenClipModel
    config: ConfigDict
    step: int = 0

    @property
    def title(self) -> str:
        """See `Source.title`."""
        return self.model.name

    @property
    def identity(self) -> str:
        """See `Source.identity`."""
        return self.model.identity

    @functools.cached_property
    def workdir(self) -> epath.Path:
        """A folder in the user's cache: the weights' own may be read-only, or shared."""
        return epath.Path(cache_folder("models").absolute() / self.identity[:32])

    @property
    def tokenizer_file(self) -> epath.Path | None:
        """See `Source.tokenizer_file`."""
        return self.model.tokenizer_file

    def item(self, use_ema: bool) -> str:
        """See `Source.item`."""
        return "params"

    def shapes(self, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """See `Source.shapes`."""
        return model_shapes(self.config)

    def restore(self, item: str, target: Any, partial: bool = False) -> Any:
        """See `Source.restore`."""
        params = self.model.params(lambda line: print(line, file=sys.stderr))
        return placed(traverse_util.flatten_dict(params, sep="/"), target)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
          UserError: its file is missing or broken, or it pads with another id than the model.
        """
        tokenizer, pad_id = super().tokenizer(), self.config.model.text.pad_id
        if tokenizer.pad_id != pad_id:
            raise UserError(
                f"{self.title}: the tokenizer {self.tokenizer_file} pads with "
                f"{tokenizer.pad_id}, and the model's padding is {pad_id}"
            )
        return tokenizer


def model_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a model's parameters by path.

    Args:
      config: the whole configuration.
    """
    model = make_model(model_config(config))
    abstract = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    flat = traverse_util.flatten_dict(nn.meta.unbox(abstract), sep="/")
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}


def placed(values: dict[str, np.ndarray], target: Any) -> Any:
    """Arrays on the devices of a target's shardings.

    Args:
      values: by path; all that the target has, and maybe more.
      target: a tree of jax.ShapeDtypeStructs with shardings.
    """

    def place(wanted: jax.ShapeDtypeStruct, value: np.ndarray) -> jax.Array:
        value = np.asarray(value, wanted.dtype)
        return jax.make_array_from_callback(value.shape, wanted.sharding, lambda part: value[part])

    flat = traverse_util.flatten_dict(target, sep="/")
    arrays = {name: place(wanted, values[name]) for name, wanted in flat.items()}
    return traverse_util.unflatten_dict(arrays, sep="/")
