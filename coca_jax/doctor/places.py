"""The folders that are written to: whether they can be, and what room there is."""

import functools
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

from coca_jax.doctor.finding import Finding, off, ok, problem
from coca_jax.io.files import cache_folder
from coca_jax.io.paths import as_path, is_url

LEAST = 1 << 30  # bytes
LEAST_SHARED = 64 << 20  # Docker's default, too small for data.workers


def checks(workdir: str | os.PathLike) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
    """A check for each place, by its name."""
    cache = cache_folder("").parent
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or as_path(workdir).parent
    places = {
        "workdir": (workdir, LEAST),
        "compiled programs": (compiled, LEAST),
        "cache": (cache, LEAST),
        "data sets": (os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", LEAST),
        "temporary files": (tempfile.gettempdir(), LEAST),
        "shared memory": ("/dev/shm", LEAST_SHARED),
    }
    return [
        (name, functools.partial(_place, name, os.fspath(path), least))
        for name, (path, least) in places.items()
    ]


def _place(name: str, path: str, least: int) -> Iterator[Finding]:
    if is_url(path):
        yield off(name, f"{path} is at a URL, which is not asked")
        return
    folder = pathlib.Path(path).expanduser().absolute()
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
        yield problem(name, text, f"free {least >> 20:,} MiB or more, or {_mend(name)}")
    else:
        yield ok(name, text)


def _mend(name: str) -> str:
    return {
        "workdir": "choose another --workdir",
        "compiled programs": "set config.compile_cache",
        "cache": "set XDG_CACHE_HOME",
        "data sets": "set TFDS_DATA_DIR or config.data.dir",
        "temporary files": "set TMPDIR",
        "shared memory": "start the container with --shm-size=8g, or set config.data.workers=0",
    }[name]
