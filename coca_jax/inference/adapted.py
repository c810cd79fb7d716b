"""The model of a run with LoRA: its factors, merged into the model that they were trained on."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from coca_jax.config import build
from coca_jax.inference.sources import Checkpoint, Source, model_shapes, whole_sharding
from coca_jax.interop import hub
from coca_jax.io.paths import as_path
from coca_jax.models import lora

KEY = "base"  # of a checkpoint's metadata, with what `model_record` returns


@dataclasses.dataclass(frozen=True)
class Adapted(Checkpoint):
    """A saved step of a run with LoRA, of which `store` has only what was trained."""

    base: Source
    base_item: str

    def shapes(self, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """See `Source.shapes`."""
        return model_shapes(self.config)

    def restore(self, item: str, target: Any, partial: bool = False) -> Any:
        """See `Source.restore`."""
        own = self.store.shapes(self.step, item)
        wanted = traverse_util.flatten_dict(target, sep="/")
        whole = {name: leaf for name, leaf in wanted.items() if name in own}
        frozen = {name: leaf for name, leaf in wanted.items() if name not in own}
        factors = {
            name: _factor(leaf, frozen[kernel])
            for name, leaf in own.items()
            if name.startswith(f"{lora.FACTORS}/")
            if (kernel := lora.name_of(name)) in frozen
        }
        tree = traverse_util.unflatten_dict(whole | factors, sep="/")
        trained = self.store.restore(self.step, {item: tree}, partial=True)[item]
        tree = traverse_util.unflatten_dict(frozen, sep="/")
        base = self.base.restore(self.base_item, tree, partial=True)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
        merge = jax.jit(
            lora.merged, static_argnames="scale", donate_argnums=0, out_shardings=shardings
        )
        return merge(base, trained, scale=build(self.config).lora.scale)


def _factor(leaf: jax.ShapeDtypeStruct, kernel: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    sharding = whole_sharding(kernel.sharding)
    return jax.ShapeDtypeStruct(leaf.shape, np.float32, sharding=sharding)


def model_record(source: Source, item: str) -> dict[str, Any]:
    """What finds a model again that a run needs, and tells it from another one.

    Args:
      source: the model.
      item: that its parameters are taken from.
    """
    place = source.folder if isinstance(source, Checkpoint) else source.title
    if not hub.is_hub_name(place):
        place = os.fspath(as_path(place).absolute())
    return {"path": place, "step": source.step, "item": item, "identity": source.identity}
