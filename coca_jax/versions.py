"""Versions of what results depend on."""

import importlib.metadata
import platform

from coca_jax import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def versions() -> dict[str, str]:
    """The versions of this package, of Python and of `PACKAGES`; imports none of them.

    A package that is not there is "missing".
    """
    of_packages = {name: _version(name) for name in PACKAGES}
    return {"coca_jax": __version__, "python": platform.python_version()} | of_packages


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
