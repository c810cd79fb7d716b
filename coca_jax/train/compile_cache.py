"""Compiled programs on disk, so that a restart need not compile again."""

import os
import pathlib

import jax

NAME = ".compile_cache"


def cache_folder(setting: str, workdir: pathlib.Path, platform: str) -> str:
    """Where compiled programs are kept; empty for nowhere.

    Args:
      setting: a folder; `auto` for one beside the workdir, shared by all runs there, where the
        platform can use it; empty for none.
      workdir: the run's folder.
      platform: JAX's name of it. `auto` leaves out `cpu`: with several CPU devices, programs that
        jaxlib 0.10.2 loads from the cache start their collectives in different orders, and hang.
    """
    if setting != "auto":
        return setting
    return "" if platform == "cpu" else str(workdir.absolute().parent / NAME)


def use_compile_cache(setting: str, workdir: pathlib.Path) -> None:
    """Sets JAX's persistent cache to `cache_folder`, unless the environment has set one already."""
    folder = cache_folder(setting, workdir, jax.default_backend())
    if folder and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)
