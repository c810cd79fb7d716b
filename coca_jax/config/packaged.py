"""The configurations that come with the package: `configs/` of the repository."""

import ast
import functools
import pathlib

import coca_jax


@functools.cache
def names() -> dict[str, pathlib.Path]:
    """The packaged configurations by name, such as `shapes`, in alphabetical order."""
    return {path.stem: path for path in sorted(_folder().glob("*.py"))}


def summary(path: pathlib.Path) -> str:
    """The first line of a configuration's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _folder() -> pathlib.Path:
    """In a wheel `coca_jax/configs`; in a checkout `configs`, next to `coca_jax`."""
    package = pathlib.Path(coca_jax.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
