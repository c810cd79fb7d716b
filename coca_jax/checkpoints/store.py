"""The checkpoint store: asynchronous saves that are verified before they are relied upon.

A step is a folder `<directory>/<step>`: one Orbax tree for each item ("params", "optimizer", ...),
`metadata.json`, `layout.json` (shape and dtype of every leaf) and, written last, `manifest.json`.
Only a step whose files agree with its manifest counts, so whatever stops a save, the step before
it stays the one to go on from.
"""

import contextlib
import functools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util

from coca_jax.checkpoints import manifest, metadata
from coca_jax.checkpoints.best import Best
from coca_jax.checkpoints.orbax_folder import OrbaxFolder
from coca_jax.checkpoints.processes import by_first, in_any
from coca_jax.errors import UserError
from coca_jax.io import files, folders
from coca_jax.io.background import hush
from coca_jax.io.paths import as_path
from coca_jax.io.stored import read_json

SETTLE_SECONDS = 10.0  # for the writers of a save that failed to end
_UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax appends to a folder's name until it is complete
_STEP_FOLDER = re.compile(rf"(0|[1-9]\d*)({re.escape(_UNFINISHED)}.*)?")


class CheckpointStore(contextlib.AbstractContextManager):
    """Saves and restores named trees of arrays ("items") by step, beneath one directory.

    A tree is a pytree of jax.Arrays, sharded or not; nodes without leaves (None, optax's
    EmptyState and MaskedNode) take no room and come back as the target has them. With several
    processes the directory is shared, and every process calls every method.

    Args:
      directory: where the steps are, local or at gs:// or s3://; made by the first save.
      keep: how many valid steps to keep, the newest ones.
      best: chooses the best of some steps, which is kept, too; None: none is.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, best: Best | None = None):
        if keep < 1:
            raise UserError(f"checkpoint.keep is {keep}; at least 1 checkpoint must be kept")
        self.directory = as_path(directory)
        self._orbax_folder = OrbaxFolder(self.directory)
        self.keep, self._best = keep, best
        self._background = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future] | None = None
        self._saved: int | None = None  # the last step that this store has saved, in process 0
        self._verified: int | None = None  # the step last verified, the same in every process

    def save(self, step: int, items: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Starts to save a step, after the save before it; returns once the arrays are copied.

        A step that is there and valid is left as it is; one that is invalid is replaced.

        Args:
          step: the step's number, the name of its folder.
          items: a tree of arrays for each name; an item that is None is left out.
          metadata: anything that JSON can hold.

        Raises:
          UserError: this save could not start, or the one before it failed.
        """
        self.wait()
        folder = self._folder(step)
        if self._first_valid(lambda: [(step, folder)], report=_ignore) is not None:
            return
        leaves = {name: _leaves(tree) for name, tree in items.items() if tree is not None}
        layout = {name: _layout(item) for name, item in leaves.items()}
        texts = {"metadata.json": json.dumps(metadata), "layout.json": json.dumps(layout)}
        trees = {name: traverse_util.unflatten_dict(item) for name, item in leaves.items() if item}
        try:
            by_first(self._prepare)
        except Exception as error:
            raise self._failure(step, error) from error
        try:
            saving = _orbax().save_checkpointables_async(
                self._orbax_folder.to_write(step), trees, overwrite=True
            )
        except Exception as error:
            # Of several processes, the others may wait for this one within Orbax.
            failure = self._failure if jax.process_count() == 1 else self._not_saved
            raise failure(step, error) from error
        self._pending = step, self._background.submit(self._finish, step, saving, texts)

    def wait(self) -> None:
        """Waits until the save under way is on disk and its manifest written.

        Raises:
          UserError: that save failed; names the step, the cause and the last good step.
        """
        if self._pending is None:
            return
        step, future = self._pending
        error = future.exception()
        self._pending = None
        if in_any(error is not None):
            raise self._failure(step, error) from error

    def latest_valid(self, report: Callable[[str], None] = print) -> int | None:
        """The newest step whose files agree with its manifest, or None; reads each file once.

        Args:
          report: called with one line for each newer step that is invalid, saying why.
        """
        self.wait()
        return self._first_valid(self._folders, report)

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata of a step, as given to `save`; a UserError if the step is not valid."""
        return self._read(step, "metadata.json")

    def shapes(self, step: int, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each leaf of an item, by its path such as "dense/kernel".

        Raises:
          UserError: the step is not valid, or has no such item.
        """
        layout = self._read(step, "layout.json")
        if item not in layout:
            has = ", ".join(layout)
            raise UserError(f"checkpoint {self._folder(step)} has no {item}; it has {has}")
        return {path: _described(text) for path, text in layout[item].items()}

    def layout_differences(
        self, step: int, targets: Mapping[str, Any], partial: bool = False
    ) -> list[str]:
        """Compares what is stored with what is wanted, one line for each leaf that differs.

        Floating-point dtypes may differ, since `restore` casts them.

        Args:
          step: a valid step.
          targets: for each item wanted, a tree of arrays or jax.ShapeDtypeStructs.
          partial: whether leaves that are only stored make no difference.
        """
        layout = self._read(step, "layout.json")
        lines = []
        for item, target in targets.items():
            if item not in layout:
                lines.append(f"{item}: not stored; the step has {', '.join(layout)}")
                continue
            stored, wanted = layout[item], _layout(_leaves(target))
            for path in stored | wanted:
                if path not in wanted:
                    if not partial:
                        lines.append(f"{item}/{path}: only stored, {stored[path]}")
                elif path not in stored:
                    lines.append(f"{item}/{path}: only wanted, {wanted[path]}")
                elif not _loadable(stored[path], wanted[path]):
                    lines.append(f"{item}/{path}: stored {stored[path]}, wanted {wanted[path]}")
        return lines

    def restore(
        self, step: int, targets: Mapping[str, Any], partial: bool = False
    ) -> dict[str, Any]:
        """Reads the items named in `targets`, each shard straight onto its device.

        Args:
          step: a valid step; its checksums are compared, unless this store has just done so.
          targets: for each item wanted, a tree of jax.ShapeDtypeStructs with shardings (or of
            arrays); a leaf without a sharding goes to the first local device.
          partial: whether the step may have more leaves than the targets; they are not read.

        Returns:
          For each item a tree with its target's structure, shardings and dtypes.

        Raises:
          UserError: the step is not valid, or its layout differs; every difference is named.
        """
        differences = self.layout_differences(step, targets, partial)
        if differences:
            lines = "\n  ".join(differences)
            raise UserError(f"checkpoint {self._folder(step)} does not fit:\n  {lines}")
        wanted = {item: _leaves(target) for item, target in targets.items()}
        abstract = {
            item: traverse_util.unflatten_dict(jax.tree.map(_abstract, leaves))
            for item, leaves in wanted.items()
            if leaves
        }
        context = _orbax().Context()
        context.pytree.loading.partial_load = partial
        loaded = {}
        if abstract:
            with context, self._orbax_folder.to_read(step) as folder:
                loaded = _orbax().load_checkpointables(folder, abstract)
        flat = {item: traverse_util.flatten_dict(loaded.get(item, {})) for item in targets}
        return {
            item: jax.tree.unflatten(
                jax.tree.structure(target), [flat[item][path] for path in wanted[item]]
            )
            for item, target in targets.items()
        }

    def close(self) -> None:
        """Waits for the save under way and ends the background thread."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax_folder.close()

    def __exit__(self, kind: type | None, *exception: object) -> None:
        if kind and self._pending and jax.process_count() > 1:
            # The others may be in another collective, which that of `wait` must not meet.
            self._pending[1].exception()
            self._pending = None
        self.close()

    def _folder(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _folders(self) -> list[tuple[int, epath.Path]]:
        """Steps and their folders, saves that never ended among them, the newest first."""
        steps = folders.children(self.directory)
        matches = [(_STEP_FOLDER.fullmatch(folder.name), folder) for folder in steps]
        return sorted(((int(match[1]), folder) for match, folder in matches if match), reverse=True)

    def has_steps(self) -> bool:
        """Whether any save was ever finished here, be its files valid or not."""
        return any((folder / manifest.NAME).exists() for _, folder in self._folders())

    def _first_valid(
        self, steps: Callable[[], Iterable[tuple[int, epath.Path]]], report: Callable[[str], None]
    ) -> int | None:
        """The first of `steps` that is valid, searched by one process for all."""
        try:
            valid = by_first(lambda: self._look(steps(), report))
        except Exception as error:
            raise UserError(f"{self.directory} cannot be read ({str(error).strip()})") from error
        self._verified = None if valid < 0 else valid
        return self._verified

    def _look(self, steps: Iterable[tuple[int, epath.Path]], report: Callable[[str], None]) -> int:
        """The first of `steps` that is valid, -1 if none is; for one process."""
        for step, folder in steps:
            problems = manifest.problems(folder) or metadata.problems(folder)
            if not problems:
                self._report_strays(folder, report)
                return step
            more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
            report(f"checkpoint {folder} is not valid: {'; '.join(problems[:3])}{more}")
        return -1

    def _read(self, step: int, name: str) -> Any:
        """A JSON file of a step, after making sure that the step is valid."""
        folder, reasons = self._folder(step), []
        if (
            self._verified != step
            and self._first_valid(lambda: [(step, folder)], reasons.append) is None
        ):
            raise UserError("\n".join(reasons) or f"checkpoint {folder} is not valid")
        return read_json(folder / name)

    def _report_strays(self, folder: epath.Path, report: Callable[[str], None]) -> None:
        if strays := manifest.strays(folder):
            more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
            report(
                f"checkpoint {folder} is valid; files that its {manifest.NAME} does not name are "
                f"ignored: {', '.join(strays[:3])}{more}"
            )

    def _finish(self, step: int, saving: Any, texts: Mapping[str, str]) -> None:
        """In the background: waits for Orbax, writes the manifest, then removes old steps."""
        saving.result()
        if jax.process_index() == 0:
            self._orbax_folder.publish(step)
            for name, text in texts.items():
                files.write_whole(self._folder(step) / name, text.encode())
            manifest.write(self._folder(step))
            self._saved = step
            self._remove_older_than(step)

    def _remove_older_than(self, step: int) -> None:
        """Removes the steps before `step`, except the newest `keep` - 1 that look whole.

        The best of those before `step`, which is not evaluated yet, stays, too.
        """
        whole = [older for older in metadata.whole_steps(self.directory) if older < step]
        kept = whole[: self.keep - 1]
        if self._best and (best := self._best.step(whole)) is not None:
            kept.append(best)
        for older, folder in self._folders():
            if older < step and folder not in [self._folder(number) for number in kept]:
                # First the mark of a save that was finished: the rest is never seen as damaged.
                if not os.path.islink(folder):
                    (folder / manifest.NAME).unlink(missing_ok=True)
                folders.remove_tree(folder)

    def best_step(self, best: Best) -> int | None:
        """The best of the steps that look whole, looked for by one process for all; None: none."""

        def look() -> int:
            step = best.step(metadata.whole_steps(self.directory))
            return -1 if step is None else step

        step = by_first(look)
        return None if step < 0 else step

    def _prepare(self) -> None:
        """Makes the directory, without what saves that were interrupted left there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for folder in folders.children(self.directory):
            if _UNFINISHED in folder.name:
                folders.remove_tree(folder)

    def _remove_what_comes(self) -> None:
        """Removes unfinished saves until no more of them come: other writers of it may go on."""
        deadline, quiet = time.monotonic() + SETTLE_SECONDS, 0
        while quiet < 3 and time.monotonic() < deadline:
            there = any(_UNFINISHED in f.name for f in folders.children(self.directory))
            quiet = 0 if there else quiet + 1
            self._remove_unfinished()
            time.sleep(0.05)

    def _failure(self, step: int, error: BaseException | None) -> UserError:
        """Removes what the failed save left behind, and says what is left to go on from."""
        folder = self._folder(step)
        try:
            if jax.process_index() == 0:
                with contextlib.suppress(Exception):  # a store that fails now may still read
                    self._remove_what_comes()
                    if not (folder / manifest.NAME).exists():
                        folders.remove_tree(folder)
            last = self.latest_valid(report=_ignore)
            good = f"the last good one is step {last}"
            if last is None:
                good = "there is no good checkpoint"
        except UserError as failure:
            good = str(failure)
            if self._saved is not None:
                good = f"the last good one is step {self._saved}; {good}"
        return self._not_saved(step, error, f"; {good}")

    def _not_saved(self, step: int, error: BaseException | None, good: str = "") -> UserError:
        cause = str(error or "another process failed").strip()
        return UserError(f"checkpoint {self._folder(step)} could not be saved ({cause}){good}")


def _leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    """The leaves of a tree by the names on the way to each: dict keys, field names, indices."""
    return {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _layout(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, str]:
    """Shape and dtype of each leaf by its path, such as {"dense/kernel": "[12, 768] float32"}."""
    return {"/".join(path): f"{list(leaf.shape)} {leaf.dtype}" for path, leaf in leaves.items()}


def _described(text: str) -> jax.ShapeDtypeStruct:
    """The reverse of a line of `_layout`."""
    shape, dtype = text.rsplit(" ", 1)
    return jax.ShapeDtypeStruct(tuple(json.loads(shape)), jnp.dtype(dtype))


def _loadable(stored: str, wanted: str) -> bool:
    (shape, dtype), (wanted_shape, wanted_dtype) = stored.rsplit(" ", 1), wanted.rsplit(" ", 1)
    castable = all(jnp.issubdtype(name, jnp.floating) for name in (dtype, wanted_dtype))
    return shape == wanted_shape and (castable or dtype == wanted_dtype)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = getattr(leaf, "sharding", None) or default
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _ignore(line: str) -> None:
    del line


@functools.cache
def _orbax() -> ModuleType:
    """Orbax, imported when first used; its log is silenced, since errors come as exceptions."""
    from orbax.checkpoint import v1

    hush()
    logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
    return v1
