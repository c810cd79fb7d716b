"""Image and text encoders of other models, from which a CoCa's training can begin.

OpenCLIP's CLIP and SigLIP, timm's ViTs, and CLIP and SigLIP of `transformers` are pre-LayerNorm
transformers like our image encoder and the unimodal half of our decoder. A tower is taken whole or
not at all: its layers and its embedding have to fit. Around them, what one side lacks (a class
token, a norm, a bias) is left out or stays new; positions may be of another grid or length.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from coca_jax.errors import UserError
from coca_jax.interop.hub import SETTINGS
from coca_jax.interop.names import Path as Place
from coca_jax.interop.names import below, listed, match
from coca_jax.interop.open_clip_config import other_model
from coca_jax.interop.open_clip_model import is_open_clip
from coca_jax.interop.rows import Row, to_ours
from coca_jax.interop.shards import ENDS
from coca_jax.interop.tower_facts import Facts, read_facts, read_json
from coca_jax.interop.tower_families import (
    CLASS_TOKEN,
    FAMILIES,
    IMAGE,
    POSITIONS,
    TEXT,
    Family,
)
from coca_jax.interop.weights import StoredTensor, read_places
from coca_jax.io.folders import children
from coca_jax.io.messages import counted
from coca_jax.models import CoCaConfig

CORE = ("image_encoder/patch_embedding/kernel", "decoder/embedding")  # besides the layers
NAMES = {IMAGE: "image encoder", TEXT: "text encoder"}
LEAST = 8  # names of a family by which it is recognized; fewer may be chance


@dataclasses.dataclass(frozen=True)
class Towers:
    """The parameters that a model can take from another one."""

    params: dict[str, np.ndarray]  # by our path; positions as they are stored
    grid: tuple[int, int] | None  # of the image positions
    context_length: int | None  # of the text positions
    titles: tuple[str, ...]  # such as "OpenCLIP's image encoder"
    left_out: tuple[str, ...]  # their names
    unfit: tuple[str, ...]  # the towers that cannot be taken, and why
    differs: tuple[str, ...]  # settings under which the weights compute something else


def is_tower_file(path: epath.Path) -> bool:
    """Whether a path holds weights, and nothing that says that they are a CoCa's."""
    names = [path.name] if path.is_file() else [item.name for item in children(path)]
    if "checkpoints" in names or not any(name.endswith(ENDS) for name in names):
        return False
    return not is_open_clip(path) or bool(other_model(read_json(_folder(path) / SETTINGS)))


def read_towers(
    path: epath.Path,
    config: CoCaConfig,
    wanted: Mapping[str, tuple[int, ...]],
    tokenizer: str,
    only: str = ".*",
) -> Towers:
    """Reads the towers that fit a model.

    Args:
      path: a file of weights, an index of shards, or a folder with one of them.
      config: the model.
      wanted: the shapes of its parameters by path.
      tokenizer: the kind of its tokenizer.
      only: a pattern of the paths that are taken.

    Raises:
      UserError: no tower fits; the message says of each why. Or a file cannot be read.
    """
    tensors, facts = read_places(path), read_facts(_folder(path))
    _refuse_coca(tensors)
    taken: dict[str, _Tower] = {}
    unfit = []
    asked = {path.partition("/")[0] for path in wanted if re.fullmatch(only, path)}
    if not asked & {IMAGE, TEXT}:
        raise UserError(f"config.init.only={only!r} matches no parameter of {IMAGE} or {TEXT}")
    for tower, name in NAMES.items():
        stored = _find(tensors, tower, config, wanted) if tower in asked else None
        if stored is None:
            continue
        if problems := [*_reasons(tower, facts, config, tokenizer), *stored.problems()]:
            unfit.append(f"its {name}: {'; '.join(problems)}")
            continue
        taken[tower] = stored
    params = {path: value for one in taken.values() for path, value in one.read(only).items()}
    if not params:
        raise UserError(
            "\n  ".join(unfit) or f"it holds no tower of a known kind: {_content(tensors)}"
        )
    class_token = IMAGE in taken and taken[IMAGE].has_class_token()
    grid, length = _place_positions(params, config, facts, class_token)
    used = {place for one in taken.values() for place in one.used(only)}
    return Towers(
        params,
        grid,
        length,
        tuple(f"{one.family.title}'s {NAMES[tower]}" for tower, one in taken.items()),
        tuple(".".join(place) for place in tensors if place not in used),
        tuple(unfit),
        tuple(_differences(facts, config, taken)),
    )


@dataclasses.dataclass(frozen=True)
class _Tower:
    """A tower in a file, and a model that it may fit."""

    family: Family
    rows: tuple[Row, ...]
    tensors: Mapping[str, StoredTensor]  # all that are next to the tower's, by the tower's names
    places: Mapping[str, Place]
    wanted: Mapping[str, tuple[int, ...]]

    def problems(self) -> Iterator[str]:
        """Yields the reasons why the tower cannot be taken."""
        stack = re.compile(re.escape(self.family.stack) + r"\.(\d+)\.(.+)")
        inside = {name: match for name in self.tensors if (match := stack.fullmatch(name))}
        layers = {int(match[1]) for match in inside.values()}
        count = max(row.layers for row in self.rows)
        if len(layers) != count:
            yield f"{len(layers)} layers there, {count} now"
            return
        names = {name for row in self.rows for name in row.names}
        if surplus := dict.fromkeys(m[2] for name, m in inside.items() if name not in names):
            yield f"its layers have {listed(surplus)}, which ours lack"
        core = [row for row in self.rows if row.layers or row.ours[0] in CORE]
        if missing := [n for row in core for n in row.names if n not in self.tensors]:
            yield f"it lacks {listed(missing)}"
            return
        yield from (problem for row in core if (problem := self._misfit(row)))

    def read(self, only: str) -> dict[str, np.ndarray]:
        """The parameters that have a place, float32."""
        rows = self._fitting(only)
        values = {n: np.asarray(self.tensors[n], np.float32) for row in rows for n in row.names}
        if wrong := [name for name, value in values.items() if not np.isfinite(value).all()]:
            raise UserError(f"NaN or infinity is in {len(wrong):,} of the weights: {listed(wrong)}")
        taken = to_ours(values, rows)
        return {path: value for path, value in taken.items() if re.fullmatch(only, path)}

    def has_class_token(self) -> bool:
        """Whether it is an image encoder with a class token."""
        rows = (row for row in self.rows if row.ours == (CLASS_TOKEN,))
        return any(name in self.tensors for row in rows for name in row.names)

    def used(self, only: str) -> set[Place]:
        """The places of the tensors that `read` reads."""
        return {self.places[name] for row in self._fitting(only) for name in row.names}

    def _fitting(self, only: str) -> list[Row]:
        return [
            row
            for row in self.rows
            if any(re.fullmatch(only, path) for path in row.ours)
            and all(name in self.tensors for name in row.names)
            and not self._misfit(row)
        ]

    def _misfit(self, row: Row) -> str:
        """The reason why a row's parameters have no place; "" if they have."""
        begin = 1 if row.layers else 0
        for name in row.names:
            for path, shape in zip(row.ours, self._shapes(row, name), strict=True):
                now = self.wanted.get(path)
                if now is None:
                    return f"{path} has no place"
                now = now[begin:]
                fits = shape[1:] == now[1:] if path in POSITIONS else shape == now
                if not fits:
                    return f"{path}: {list(shape)} there, {list(now)} now"
        return ""

    def _shapes(self, row: Row, name: str) -> list[tuple[int, ...]]:
        """The shapes of our parameters in a tensor, which is not read."""
        shape, forms = self.tensors[name].shape, {"matrix": 2, "patches": 4}
        if len(shape) != forms.get(row.form, len(shape)) or (
            len(row.ours) > 1 and (not shape or shape[0] % len(row.ours))
        ):
            return [shape] * len(row.ours)
        number = np.broadcast_to(np.float32(0), shape)
        return [piece.shape for piece in row.pieces(number)]


def _find(
    tensors: Mapping[Place, StoredTensor],
    tower: str,
    config: CoCaConfig,
    wanted: Mapping[str, tuple[int, ...]],
) -> _Tower | None:
    """The tower in the family with the most names among the tensors; None if there is none."""
    best: tuple[int, _Tower | None] = 0, None
    for family in FAMILIES:
        if family.tower != tower:
            continue
        rows = tuple(family.rows(config))
        names = [name for row in rows for name in row.names]
        matched = match(tensors, names)
        if len(matched.places) >= max(best[0] + 1, LEAST):
            places = below(tensors, matched, names)
            stored = {name: tensors[place] for name, place in places.items()}
            best = len(matched.places), _Tower(family, rows, stored, places, wanted)
    return best[1]


def _place_positions(
    params: dict[str, np.ndarray], config: CoCaConfig, facts: Facts, class_token: bool
) -> tuple[tuple[int, int] | None, int | None]:
    """Gives image positions a class token's row if the model has one, and takes it off if not.

    Returns:
      The grid of the image positions and the number of the text positions, where there are any.

    Raises:
      UserError: the image positions are those of no grid.
    """
    length = len(params[POSITIONS[1]]) if POSITIONS[1] in params else None
    if POSITIONS[0] not in params:
        return None, length
    table = params[POSITIONS[0]]
    wanted = facts.size and tuple(side // config.image.patch for side in facts.size)
    # A class token need not have a position: timm's no_embed_class.
    for first in (1, 0) if class_token else (0, 1):
        if grid := _grid(len(table) - first, wanted):
            break
    else:
        shape = "a grid of {} x {} patches".format(*wanted) if wanted else "a square of patches"
        raise UserError(f"its {len(table)} image positions are not those of {shape}")
    begin = table[:first] if first else np.zeros_like(table[:1])
    params[POSITIONS[0]] = np.concatenate([begin[: int(config.image.class_token)], table[first:]])
    return grid, length


def _grid(count: int, wanted: tuple[int, int] | None) -> tuple[int, int] | None:
    """The rows and columns of a number of patches, a square if none are wanted; None: neither."""
    if wanted:
        return wanted if math.prod(wanted) == count else None
    side = math.isqrt(count)
    return (side, side) if side * side == count and count else None


def _reasons(tower: str, facts: Facts, config: CoCaConfig, tokenizer: str) -> Iterator[str]:
    """Yields the reasons for which equal shapes do not suffice."""
    heads = config.image.num_heads if tower == IMAGE else config.text.num_heads
    there = facts.heads.get(tower, heads)
    if there != heads:
        yield f"{there} attention heads there, {heads} now"
    if tower == TEXT and tokenizer != "clip":
        yield f"it reads CLIP's tokens, and config.data.tokenizer.kind={tokenizer!r}"
    if tower == TEXT and not facts.causal:
        yield "its tokens attend to later ones, and ours do not"


def _differences(facts: Facts, config: CoCaConfig, taken: Collection[str]) -> Iterator[str]:
    """Yields settings under which the weights of these towers compute something else."""
    for tower in taken:
        if activation := facts.activations.get(tower):
            yield f"activation of the {NAMES[tower]}'s MLPs: {activation} there, gelu now"
    if IMAGE not in taken:
        return
    for name in ("mean", "std"):
        there, now = facts.pixels.get(name), getattr(config.image, name)
        if there and not np.allclose(there, now, atol=1e-4):
            yield f"config.model.image.{name}: {tuple(there)} there, {now} now"
    if IMAGE not in facts.heads:
        yield "attention heads: the weights do not say how many; the run's numbers are taken"


def _refuse_coca(tensors: Mapping[Place, Any]) -> None:
    """Raises a UserError if these are a CoCa's weights, of which all could be taken."""
    if any("text_decoder" in ".".join(place).split(".") for place in tensors):
        raise UserError(
            f"it holds a CoCa's weights: put their {SETTINGS} next to them, or convert them by "
            "coca convert --from open_clip --variant VARIANT"
        )


def _content(tensors: Mapping[Place, Any]) -> str:
    names = [".".join(place) for place in tensors]
    return f"it holds {counted(len(names), 'tensors')}: {listed(names)}"


def _folder(path: epath.Path) -> epath.Path:
    return path if path.is_dir() else path.parent
