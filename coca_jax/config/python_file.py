"""Running the Python file that describes an experiment."""

import inspect
import os
import pathlib
import sys
import types
from collections.abc import Callable

from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.io.paths import normalize


def run_file(spec: str) -> ConfigDict:
    """The configuration that `get_config` of a Python file returns.

    Args:
      spec: `FILE` or `FILE:argument`; the longest beginning that is a file is the file.

    Raises:
      UserError: there is no such file, or it does not return a configuration.
    """
    path, argument = split_spec(spec)
    try:
        config = _call(_get_config(path), argument)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's own file may raise
        raise UserError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {path} should return a ConfigDict, not {type(config).__name__}"
        )
    # A frozen or locked one could be given neither overrides nor the names of classes.
    return config.unlock() if type(config) is ConfigDict else ConfigDict(config)


def split_spec(spec: str) -> tuple[str, str | None]:
    """The file and the argument of `FILE[:ARGUMENT]`; file names may contain colons, too.

    Raises:
      UserError: no beginning of it is a file.
    """
    parts = spec.split(":")
    beginnings = {
        normalize(":".join(parts[:count])): ":".join(parts[count:]) or None
        for count in range(len(parts), 0, -1)
        if parts[0].strip() and "\0" not in spec
    }
    for path, argument in beginnings.items():
        if os.path.isfile(path):
            return path, argument
    for path in beginnings:
        if os.path.isdir(path):
            raise UserError(f"--config {path!r} is a folder; it should be a Python file")
    named = next((path for path in beginnings if path.endswith(".py")), spec)
    raise UserError(f"configuration file {named!r} does not exist")


def _get_config(path: str) -> Callable:
    """The file's `get_config`. It is compiled from source, so that no stale bytecode is run."""
    source = pathlib.Path(path).read_bytes()
    module = types.ModuleType("coca_config")
    module.__file__ = path
    try:
        program = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL
        raise UserError(f"it is not a Python program: {type(error).__name__}: {error}") from error
    before = sys.modules.get(module.__name__)
    # Dataclasses look there for annotations that are texts. Afterwards it is taken out again:
    # worker processes get what is defined in the file by value.
    sys.modules[module.__name__] = module
    try:
        exec(program, vars(module))
    finally:
        sys.modules.pop(module.__name__)
        if before is not None:
            sys.modules[module.__name__] = before
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise UserError("it should define get_config(argument=None), a function")
    return function


def _call(function: Callable, argument: str | None) -> object:
    try:
        inspect.signature(function).bind(argument)
    except TypeError as error:
        if argument is not None:
            raise UserError(f"get_config takes no argument, and {argument!r} is given") from error
        return function()
    return function(argument)
