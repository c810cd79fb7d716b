"""Checks that the API reference is whole: no public module or name may be missing."""

import fnmatch
import importlib
import inspect
import pathlib
import pkgutil
from collections.abc import Iterator

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import coca_jax

logger = logging.getLogger(__name__)

INTERNAL = pathlib.Path(__file__).with_name("internal_modules.txt")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the check."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of what the reference lacks; `docs/build.sh` makes that an error."""
    domain = env.get_domain("py")
    for name in sorted({*public_modules(), *domain.data["modules"]}):
        if name not in domain.data["modules"]:
            logger.warning("%s is neither on a page of docs/api nor in %s", name, INTERNAL)
            continue
        for member in public_names(name):
            if f"{name}.{member}" not in domain.objects:
                logger.warning("%s.%s has no docstring, or is on no page", name, member)


def public_modules(package: str = coca_jax.__name__) -> Iterator[str]:
    """A package, and its modules that are for use from outside."""
    yield package
    module = importlib.import_module(package)
    if hasattr(module, "__all__") and module is not coca_jax:
        return
    lines = INTERNAL.read_text().splitlines()
    internal = [line for line in lines if not line.startswith("#")]
    for _, name, is_package in pkgutil.iter_modules(module.__path__, f"{package}."):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in internal):
            continue
        if is_package:
            yield from public_modules(name)
        else:
            yield name


def public_names(module_name: str) -> list[str]:
    """The names in `__all__`, else the functions and classes that a module defines."""
    module = importlib.import_module(module_name)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module_name
    ]
