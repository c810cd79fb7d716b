"""Compiled programs on disk, so that a restart need not compile again."""

import os

import jax

from coca_jax.io.files import cache_folder as user_cache
from coca_jax.io.paths import as_path, is_url, normalize

NAME = ".compile_cache"


def cache_folder(setting: str, workdir: str | os.PathLike, platform: str, devices: int) -> str:
    """Returns the folder of compiled programs; empty if none are kept.

    Args:
      setting: a folder; `auto`: one next to the workdir, which all runs there share, or for a
        workdir at a URL one in the user's cache, if the devices can use it; empty: none.
      workdir: the run's folder.
      platform: JAX's name of the devices' platform.
      devices: number of devices of all processes. `auto` is none for several of `cpu`: programs
        that jaxlib 0.10.2 loads from the cache start their collectives in different orders there,
        and hang.
    """
    if setting != "auto":
        return setting and normalize(setting)
    hangs = platform == "cpu" and devices > 1
    if hangs:
        return ""
    folder = as_path(workdir).parent
    return str(user_cache("compiled") if is_url(str(folder)) else folder / NAME)


def resolve_cache(setting: str, workdir: str | os.PathLike) -> str:
    """`cache_folder` for the devices that JAX has."""
    return cache_folder(setting, workdir, jax.default_backend(), jax.device_count())


def use_compile_cache(setting: str, workdir: str | os.PathLike) -> None:
    """Sets JAX's persistent cache to `resolve_cache`, unless the environment has set one."""
    folder = resolve_cache(setting, workdir)
    if folder and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)
