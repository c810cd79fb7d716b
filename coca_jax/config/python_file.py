"""Finding and running the Python file or module that describes an experiment."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from coca_jax.config import packaged
from coca_jax.errors import UserError
from coca_jax.fields import near
from coca_jax.io.paths import normalize

_NAME = "coca_config"  # of the module that a file is run as


def run_file(spec: str) -> ConfigDict:
    """The configuration that `get_config` of a Python file or module returns.

    Args:
      spec: `NAME` or `NAME:argument`, where NAME is the longest beginning of it that is a file,
        else a packaged configuration (`packaged.names`), else a module.

    Raises:
      UserError: there is no such file or module, or it does not return a configuration.
    """
    name, argument, find = _locate(spec)
    try:
        has_neighbors = find is _from_file and pathlib.Path(name) not in packaged.names().values()
        with _neighbors(name) if has_neighbors else contextlib.nullcontext():
            config = _call(find(name), argument)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's own file may raise
        raise UserError(f"{name} cannot be used: {_reason(error, name)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {name} should return a ConfigDict, not {type(config).__name__}"
        )
    # A frozen or locked one could be given neither overrides nor the names of classes.
    return config.unlock() if type(config) is ConfigDict else ConfigDict(config)


def _locate(spec: str) -> tuple[str, str | None, Callable[[str], Callable]]:
    """What `spec` names, its argument, and the function that reads `get_config` from the former.

    Raises:
      UserError: no beginning of `spec` is a file, a packaged configuration or a module.
    """
    words = spec.split(":") if spec.partition(":")[0].strip() and "\0" not in spec else []
    splits = [
        (":".join(words[:count]), ":".join(words[count:]) or None)
        for count in range(len(words), 0, -1)
    ]
    for name, argument in splits:
        if os.path.isfile(path := normalize(name)):
            return path, argument, _from_file
    for name, argument in splits:
        if path := packaged.names().get(name):
            return str(path), argument, _from_file
    if "" not in sys.path:  # the current folder; as `python -m` has it, but last
        sys.path.append("")
    for name, argument in splits:
        if _is_module(name):
            return name, argument, _from_module
    for name, _ in splits:
        if os.path.isdir(path := normalize(name)):
            raise UserError(f"--config {path!r} is a folder; it should be a Python file")
    named = [path for name, _ in splits if (path := normalize(name)).endswith(".py")]
    if named or spec.endswith(".py"):
        raise UserError(f"configuration file {(named or [spec])[0]!r} does not exist")
    raise UserError(
        f"--config {spec!r} is not a file, a module or one of the packaged configurations, which "
        f"`coca configs` lists{near(words[0] if words else spec, packaged.names())}"
    )


def _is_module(name: str) -> bool:
    """Whether there is a module of this name; imports the packages that it is in."""
    if not all(word.isidentifier() for word in name.split(".")):
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (Exception, SystemExit) as error:  # of a package's own code
        # A name that is absent itself, and not what a package on the way to it imports.
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            return False
        raise UserError(f"{name} cannot be used: {_reason(error, name)}") from error
    return spec is not None and spec.origin is not None  # a folder without code has no origin


def _from_module(name: str) -> Callable:
    """`get_config` of a module."""
    return _checked(importlib.import_module(name))


def _checked(module: types.ModuleType) -> Callable:
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise UserError("it should define get_config(argument=None), a function")
    return function


def _from_file(path: str) -> Callable:
    """The file's `get_config`. It is compiled from source, so that no stale bytecode is run."""
    source = pathlib.Path(path).read_bytes()
    module = types.ModuleType(_NAME)
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
    return _checked(module)


@contextlib.contextmanager
def _neighbors(path: str) -> Iterator[None]:
    """While a file runs, it can import its neighbors, as with `python FILE`.

    Afterwards their folder is searched last, for worker processes and for later imports.
    """
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _call(function: Callable, argument: str | None) -> object:
    try:
        inspect.signature(function).bind(argument)
    except TypeError as error:
        if argument is not None:
            raise UserError(f"get_config takes no argument, and {argument!r} is given") from error
        return function()
    return function(argument)


def _reason(error: BaseException, name: str) -> str:
    """An exception on one line, with the last line of the file or module that it went through."""
    # A KeyError shows its message as a key, in quotes; an AttributeError of a ConfigDict holds one.
    key_error = next((each for each in (error, *error.args) if isinstance(each, KeyError)), None)
    message = " ".join(map(str, key_error.args)) if key_error else ""
    said = " ".join((message if " " in message else str(error)).split())
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__")
        if module == _NAME or f"{name}.".startswith(f"{module}."):  # or a package that it is in
            place = f" ({frame.f_code.co_filename}, line {line})"
    return f"{type(error).__name__}: {said}{place}"
