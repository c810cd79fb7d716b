"""The warm start of a run from another's parameters: what fits is read, the rest is reported.

Each parameter is matched by its name. One with the stored shape is restored; the image encoder's
positions are resampled where the grid of patches differs; the decoder's have one row more if there
is a [CLS], that is a contrastive loss, and gain or lose it, and rows where texts are longer or
shorter; one that is not stored, or not asked for by `init.only`, keeps its seeded initial values;
what is stored and has no place is left out. Any other difference is an error, but for a head of
other classes, which is new.

From weights of another kind of model, such as a CLIP, the towers are taken that fit
(`interop.towers`).
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import differences, model_config, to_json
from coca_jax.config.tree import function_free_keys
from coca_jax.data.tokenizers import tokenizers
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint
from coca_jax.inference.sources import Source, placed
from coca_jax.interop import hub
from coca_jax.interop.towers import Towers, is_tower_file, read_towers
from coca_jax.io.paths import as_path
from coca_jax.models import CoCaConfig, lora
from coca_jax.models.resampling import resample_positions
from coca_jax.train.state import TrainState

POSITIONS, TEXT_POSITIONS = "image_encoder/positions", "decoder/positions"
LISTED = 8  # names in a line of the summary; more are folded

# By the parameter's path, such as "decoder/norm/scale".
Shapes = Mapping[str, jax.ShapeDtypeStruct]
Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TowerFile:
    """Weights of another kind of model."""

    path: epath.Path
    name: str  # as the user wrote it


@dataclasses.dataclass(frozen=True)
class _TowerSource:
    """The towers that were read from a `TowerFile`."""

    title: str
    towers: Towers

    def restore(self, item: str, target: Any, partial: bool = False) -> Any:
        """See `Source.restore`."""
        return placed(self.towers.params, target)


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """A plan: the parameters that a new run takes, and those that are new or left out."""

    source: Source | _TowerSource
    item: str  # "params", or "ema"
    reads: Shapes  # with the stored shape and the new run's dtype and sharding
    models: tuple[CoCaConfig, CoCaConfig]  # the source's and the new run's
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    settings: tuple[str, ...]  # of model and losses that differ, in words
    unfit: tuple[str, ...] = ()  # towers that are not taken, and why

    @property
    def resampled(self) -> bool:
        """Whether the images' positions are for another grid."""
        old, new = self.models
        return POSITIONS in self.reads and old.image.grid != new.image.grid

    @property
    def resized(self) -> bool:
        """Whether the texts' positions gain or lose rows: [CLS]'s, or because of their length."""
        old, new = self.models
        alike = old.has_cls == new.has_cls and old.text.context_length == new.text.context_length
        return TEXT_POSITIONS in self.reads and not alike

    @property
    def reshaped(self) -> tuple[str, ...]:
        """Names of the positions that are resampled or resized."""
        return (POSITIONS,) * self.resampled + (TEXT_POSITIONS,) * self.resized

    def apply(self, state: TrainState) -> TrainState:
        """A new run's state with the source's parameters; their average begins as a copy of them.

        Args:
          state: as `StateFactory.create` makes it. The arrays that are replaced are freed, so that
            no device ever holds more than one state.

        Raises:
          UserError: the source's files have been damaged since the plan was made.
        """
        own = traverse_util.flatten_dict(lora.model_params(state.frozen, state.params), sep="/")
        kept = {TEXT_POSITIONS} if self.resized else set()
        replaced = [own[name] for name in self.reads if name not in kept]
        for array in replaced + jax.tree.leaves(state.ema):
            array.delete()
        target = traverse_util.unflatten_dict(self.reads, sep="/")
        arrays = self.source.restore(self.item, target, partial=True)
        arrays = traverse_util.flatten_dict(arrays, sep="/")
        taken = own | arrays | self._changed(arrays, own)
        frozen, params = _replaced(state.frozen, taken), _replaced(state.params, taken)
        state = state.replace(frozen=frozen)
        if state.ema is None:
            return state.replace(params=params)
        shardings = jax.tree.map(lambda x: x.sharding, params)
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)
        return state.replace(params=params, ema=copy(params))

    def _changed(self, arrays: Arrays, own: Arrays) -> dict[str, jax.Array]:
        """The parameters that are not taken over as they are."""
        old, new = self.models

        def resample(table: Float[Array, "old d"]) -> Float[Array, "new d"]:
            first = int(new.image.class_token)
            return resample_positions(table, old.image.grid, new.image.grid, first)

        def resize(
            table: Float[Array, "old d"], own: Float[Array, "new d"]
        ) -> Float[Array, "new d"]:
            both = min(old.text.context_length, new.text.context_length)
            cls = own if not old.has_cls else table
            cls = cls[-1:] if new.has_cls else own[:0]
            return jnp.concatenate([table[:both], own[both : new.text.context_length], cls])

        changed = {}
        if self.resampled:
            out = self.reads[POSITIONS].sharding
            changed[POSITIONS] = jax.jit(resample, out_shardings=out)(arrays[POSITIONS])
        if self.resized:
            out, tables = (
                own[TEXT_POSITIONS].sharding,
                (arrays[TEXT_POSITIONS], own[TEXT_POSITIONS]),
            )
            changed[TEXT_POSITIONS] = jax.jit(resize, out_shardings=out)(*tables)
        return changed

    def summary(self) -> str:
        """The lines of a report: which parameters are restored, resized, new or left out."""
        flags = {POSITIONS: self.resampled, TEXT_POSITIONS: self.resized}
        restored = [name for name in self.reads if not flags.get(name)]
        size = sum(math.prod(self.reads[name].shape) for name in restored)
        kind = "moving average" if self.item == "ema" else "parameters"
        rows = {
            "starts from": f"{self.source.title}, its {kind}",
            "restored": f"{len(restored)} arrays, {size:,} parameters",
        }
        if self.resampled:
            old, new = ("{} x {}".format(*model.image.grid) for model in self.models)
            rows["resampled"] = f"{POSITIONS}, from {old} to {new} patches"
        if self.resized:
            rows["resized"] = f"{TEXT_POSITIONS}, {_resized_in_words(*self.models)}"
        if self.new:
            rows["new"] = folded(self.new)
        if self.left_out:
            rows["left out"] = folded(self.left_out)
        lines = [f"{name:>11}  {text}" for name, text in rows.items()]
        lines += [f"{'not taken':>11}  {text}" for text in self.unfit]
        lines += [f"{'differs':>11}  {text}" for text in self.settings]
        return "\n".join(lines)


def _replaced(tree: Any, values: Mapping[str, Any]) -> Any:
    """A tree with these values by path in place of its own."""
    if tree is None:
        return None
    flat = traverse_util.flatten_dict(tree, sep="/")
    return traverse_util.unflatten_dict({n: values.get(n, x) for n, x in flat.items()}, sep="/")


def find_source(path: str, workdir: epath.Path) -> Source | TowerFile | None:
    """The model that `init.path` names; None without one, or where a run has a checkpoint already.

    Raises:
      UserError: there is no such model.
    """
    if not path or CheckpointStore(workdir / "checkpoints").has_steps():
        return None
    try:
        local = as_path(hub.download(path) if hub.is_hub_name(path) else path)
        return TowerFile(local, path) if is_tower_file(local) else find_checkpoint(path)
    except UserError as error:
        raise UserError(f"config.init.path={path!r}: {error}") from error


def plan(
    source: Source | TowerFile, config: ConfigDict, params: Any, tokenizer_file: str
) -> WarmStart:
    """Compares what is stored with what is wanted; computes nothing.

    Args:
      source: where the parameters come from.
      config: of the new run.
      params: its parameters as nested dictionaries of jax.ShapeDtypeStructs with shardings.
      tokenizer_file: its SentencePiece model; empty if its tokenizer has none.

    Raises:
      UserError: tokenizers or shapes differ (all of them are named), or nothing fits.
    """
    if isinstance(source, TowerFile):
        return _plan_towers(source, config, params)
    models = model_config(source.config), model_config(config)
    item = source.item(config.init.use_ema)
    wanted = traverse_util.flatten_dict(params, sep="/")
    stored = _chosen(source.shapes(item), config)
    stored = {n: leaf for n, leaf in stored.items() if not _of_another_head(n, source, config)}
    reads = {name: _read_as(name, leaf, *models) for name, leaf in wanted.items() if name in stored}
    problems = tokenizer_problems(source, config, tokenizer_file)
    problems += _shape_problems(stored, reads, wanted)
    settings = _settings(source.config, config)
    if problems:
        lines = "\n  ".join(problems + settings)
        raise UserError(f"config.init.path: {source.title} does not fit this run:\n  {lines}")
    return WarmStart(
        source,
        item,
        reads,
        models,
        new=tuple(name for name in wanted if name not in stored),
        left_out=tuple(name for name in stored if name not in wanted),
        settings=tuple(settings),
    )


def _plan_towers(source: TowerFile, config: ConfigDict, params: Any) -> WarmStart:
    """The plan of a run that takes towers from another kind of model."""
    new, wanted = model_config(config), traverse_util.flatten_dict(params, sep="/")
    shapes = {name: leaf.shape for name, leaf in wanted.items()}
    _require_pattern(config.init.only)
    try:
        kind, only = config.data.tokenizer.kind, config.init.only
        towers = read_towers(source.path, new, shapes, kind, only)
    except UserError as error:
        raise UserError(
            f"config.init.path: {source.name} does not fit this run:\n  {error}"
        ) from error
    image, text, contrastive = new.image, new.text, new.contrastive
    if towers.grid:
        rows, columns = towers.grid
        size = {"size": rows * image.patch, "grid_width": columns if rows != columns else 0}
        image = dataclasses.replace(image, **size)
    if towers.context_length:
        text = dataclasses.replace(text, context_length=towers.context_length)
        contrastive = "none"  # for there is no position of a [CLS]
    old = dataclasses.replace(new, image=image, text=text, contrastive=contrastive)
    reads = {
        name: jax.ShapeDtypeStruct(value.shape, wanted[name].dtype, sharding=wanted[name].sharding)
        for name, value in towers.params.items()
    }
    return WarmStart(
        _TowerSource(f"{source.name} ({', '.join(towers.titles)})", towers),
        "params",
        reads,
        (old, new),
        new=tuple(name for name in wanted if name not in reads),
        left_out=tuple(name.replace(".", "/") for name in towers.left_out),
        settings=towers.differs,
        unfit=towers.unfit,
    )


def _require_pattern(only: str) -> None:
    try:
        re.compile(only)
    except re.error as error:
        raise UserError(f"config.init.only={only!r}: {error}") from error


def _chosen(stored: Shapes, config: ConfigDict) -> Shapes:
    """The stored parameters that `init.only` selects."""
    _require_pattern(config.init.only)
    chosen = {n: leaf for n, leaf in stored.items() if re.fullmatch(config.init.only, n)}
    if not chosen:
        raise UserError(
            f"config.init.only={config.init.only!r} matches none of {folded(tuple(stored))}"
        )
    return chosen


def _of_another_head(name: str, source: Source, config: ConfigDict) -> bool:
    """Whether this is a head's parameter that has no place here: its classes or inputs differ."""
    old, new = (model_config(c).head for c in (source.config, config))
    if not name.startswith("head") or old is None or new is None:
        return False
    if old.input != new.input or [*source.config.head.classes] != [*config.head.classes]:
        return True
    of_images = "head_image_positions" if new.input == "image" else "head/softmax/kernel"
    return old.num_images != new.num_images and name == of_images


def _read_as(
    name: str, wanted: jax.ShapeDtypeStruct, old: CoCaConfig, new: CoCaConfig
) -> jax.ShapeDtypeStruct:
    """A parameter as it has to be stored to be of use."""
    shape = wanted.shape
    if name == POSITIONS and old.image.class_token == new.image.class_token:
        shape = (old.image.positions, *shape[1:])
    if name == TEXT_POSITIONS:
        shape = (old.text.context_length + old.has_cls, *shape[1:])
    return jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=wanted.sharding)


def _shape_problems(stored: Shapes, reads: Shapes, wanted: Shapes) -> list[str]:
    """Each parameter that is not stored with a shape that is of use; or that none is."""
    if not reads:
        return [f"none of its parameters has a place here; it has {folded(tuple(stored))}"]
    return [
        f"{name}: {list(stored[name].shape)} there, {list(wanted[name].shape)} now"
        for name, leaf in reads.items()
        if leaf.shape != stored[name].shape
    ]


def _resized_in_words(old: CoCaConfig, new: CoCaConfig) -> str:
    """The change of the texts' positions in words."""
    changes = []
    if old.has_cls != new.has_cls:
        changes.append(f"whose last row, [CLS]'s, {'is new' if new.has_cls else 'is left out'}")
    if old.text.context_length != new.text.context_length:
        changes.append(f"of {new.text.context_length} tokens, from {old.text.context_length}")
    return ", ".join(changes)


def tokenizer_problems(source: Source, config: ConfigDict, file: str) -> list[str]:
    """The reasons why token ids would change their meaning; none if they keep it."""
    old, new = source.config.data.tokenizer.kind, config.data.tokenizer.kind
    if old != new:
        return [f"its tokenizer is of another kind: {old} there, {new} now"]
    tokenizer = tokenizers[new]
    if not tokenizer.file_name:
        return []
    model = source.tokenizer_file
    # A folder of another project's may keep a part of it in other files.
    alike = model.exists() and tokenizer.standalone_file(model) == tokenizer.standalone_file(file)
    if not alike:
        return [f"its tokenizer, {model}, is not this run's, {file}: ids would mean other words"]
    return []


def _settings(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Settings of model and losses that differ: parameters may fit and yet mean something else."""
    sections = ("model", "loss")
    old, new = ({k: to_json(config)[k] for k in sections} for config in (old, new))
    return differences(old, new, function_free_keys())


def folded(names: tuple[str, ...]) -> str:
    """Names in one line: each, or where there are many how many begin with the same two words."""
    if len(names) <= LISTED:
        return ", ".join(names)
    counts: dict[str, int] = {}
    for name in names:
        start = "/".join(name.split("/")[:2])
        counts[start] = counts.get(start, 0) + 1
    parts = [f"{start}/... ({n})" if n > 1 else start for start, n in counts.items()]
    return ", ".join(parts)
