"""The folders that are written to: whether they can be, and what room there is."""

import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

from coca_jax.doctor.finding import Finding, off, ok, problem
from coca_jax.errors import UserError
from coca_jax.io.files import cache_folder as user_cache
from coca_jax.io.paths import is_url

LEAST = 1 << 30  # bytes
SHARED = "/dev/shm"  # missing where a system has none
LEAST_SHARED = 64 << 20  # Docker's default, too small for data.workers


def checks(workdir: str | os.PathLike) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
    """A check for each place, by its name."""
    places: dict[str, Callable[[], str | os.PathLike]] = {
        "workdir": lambda: workdir,
        "compiled programs": functools.partial(_compiled, workdir),
        "cache": lambda: user_cache("").parent,
        "data sets": lambda: os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets",
        "temporary files": tempfile.gettempdir,
    }
    checks = [(name, functools.partial(_place, name, at, LEAST)) for name, at in places.items()]
    if os.path.isdir(SHARED):
        shared = functools.partial(_place, "shared memory", lambda: SHARED, LEAST_SHARED)
        checks.append(("shared memory", shared))
    return checks


def _compiled(workdir: str | os.PathLike) -> str:
    """The folder of compiled programs, on one device."""
    from coca_jax.train.compile_cache import cache_folder  # imports JAX, which may be broken

    own = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return own or cache_folder("auto", workdir, platform="", devices=1)


def _place(name: str, where: Callable[[], str | os.PathLike], least: int) -> Iterator[Finding]:
    """Whether a folder can be written, and has more than `least` bytes free."""
    try:
        path = os.fspath(where())
    except UserError as error:
        yield problem(name, str(error), _mend(name))
        return
    if is_url(path):
        yield off(name, f"{path} is at a URL, which is not asked")
        return
    folder = pathlib.Path(path).expanduser().absolute()
    if link := _broken_link(folder):
        to = os.readlink(link)
        fix = f"mount or make {to}, or {_mend(name)}"
        yield problem(name, f"{link} is a link to {to}, which is not there", fix)
        return
    there = next(part for part in (folder, *folder.parents) if part.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".coca-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        reason = error.strerror or type(error).__name__
        yield problem(name, f"{folder} cannot be written: {reason}", _mend(name))
        return
    text = f"{folder}{' (not made yet)' * (there != folder)}: {free / 2**30:,.1f} GiB are free"
    if free <= least:
        yield problem(name, text, f"free more than {least >> 20:,} MiB, or {_mend(name)}")
    else:
        yield ok(name, text)


def _broken_link(folder: pathlib.Path) -> pathlib.Path | None:
    """A link on the way to a folder that leads nowhere, as to a disk that is not mounted."""
    parts = (folder, *folder.parents)
    return next((part for part in parts if part.is_symlink() and not part.exists()), None)


def _mend(name: str) -> str:
    return {
        "workdir": "choose another --workdir",
        "compiled programs": "set config.compile_cache",
        "cache": "set XDG_CACHE_HOME",
        "data sets": "set TFDS_DATA_DIR or config.data.dir",
        "temporary files": "set TMPDIR",
        "shared memory": "start the container with --shm-size=8g, or set config.data.workers=0",
    }[name]
