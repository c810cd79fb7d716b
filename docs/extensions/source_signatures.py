"""Signatures and fields of the API reference, as the source has them.

Sphinx would show annotations as Python has evaluated them: `Float[Array, "b d"]` with the modules
that its parts are defined in, and the options of a dataclass with the objects that check them.
"""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

from coca_jax.registry import Registry

FIELD_OF_TUPLE = type(typing.NamedTuple("Pair", [("first", int)]).first)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the handlers."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True}


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str, returns: str
) -> tuple[str | None, str | None] | None:
    """The arguments and the result of a function or a class, as text; None leaves Sphinx's."""
    if what == "property":
        return None  # has no arguments, and its type is an option of its own
    if what == "class":
        if rows := list(fields(obj)):
            return f"({', '.join(row.text for row in rows)})", None
        if "__init__" not in vars(obj):
            return arguments, None
        obj = obj.__init__
    node = definition(obj)
    if not isinstance(node, ast.FunctionDef):
        return arguments, returns
    spec = node.args
    is_bound = what == "class" or (what == "method" and not is_static(node))
    if is_bound:
        (spec.posonlyargs or spec.args).pop(0)
    for each in ast.walk(spec):
        if isinstance(each, ast.arg) and each.annotation:
            each.annotation = unquoted(each.annotation)
    return f"({ast.unparse(spec)})", ast.unparse(unquoted(node.returns)) if node.returns else None


def unquoted(annotation: ast.expr) -> ast.expr:
    """An annotation that is a text, since its class is defined below, as that class's name."""
    is_text = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return ast.parse(annotation.value, mode="eval").body if is_text else annotation


def is_static(node: ast.FunctionDef) -> bool:
    """Whether a method is a static one."""
    return any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)


def definition(obj: Any) -> ast.AST | None:
    """The syntax of a class or a function; None if it has no source of its own."""
    try:
        source = inspect.getsource(inspect.unwrap(obj))
    except (TypeError, OSError):
        return None
    return ast.parse(textwrap.dedent(source)).body[0]


@dataclasses.dataclass(frozen=True)
class Row:
    """A field of a class: `name: annotation = default`, and what is said of it."""

    name: str
    text: str
    doc: str


def fields(cls: type) -> Iterator[Row]:
    """The fields of a dataclass, a Linen module or a named tuple, inherited ones first."""
    if not (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")):
        return
    rows = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("coca_jax") and (node := definition(base)):
            lines = textwrap.dedent(inspect.getsource(base)).splitlines()
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and is_field(each):
                    rows[each.target.id] = row(cls, each, lines)
    yield from rows.values()


def is_field(node: ast.AnnAssign) -> bool:
    """Whether an annotated name of a class is a public field."""
    return not (node.target.id.startswith("_") or "ClassVar" in ast.unparse(node.annotation))


def row(cls: type, node: ast.AnnAssign, lines: list[str]) -> Row:
    """One field; what is said of it stands in the call of `field`, or in a comment."""
    name = node.target.id
    text = f"{name}: {ast.unparse(node.annotation)}"
    field = getattr(cls, "__dataclass_fields__", {}).get(name)
    if field and "doc" in field.metadata:
        return Row(name, f"{text} = {field.default!r}", field.metadata["doc"])
    comment = lines[node.end_lineno - 1][node.end_col_offset :].strip()
    above = node.lineno - 2
    while not comment.startswith("#") and lines[above].strip().startswith("#"):
        above -= 1
    comment = comment or " ".join(line.strip()[2:] for line in lines[above + 1 : node.lineno - 1])
    default = f" = {ast.unparse(node.value)}" if node.value else ""
    return Row(name, text + default, comment.lstrip("# "))


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Google-style sections as fields; the fields of a class; the names in a registry."""
    if isinstance(obj, Registry):
        lines[:] = [f"Each {obj.noun} by its name: {', '.join(f'``{key}``' for key in obj)}."]
    for number in range(len(lines) - 2):
        text, blank, code = lines[number : number + 3]
        if text.endswith(":") and not blank and code.startswith("    "):
            lines[number] += ":"  # what follows is code
    # Napoleon would read what stands in front of a property's first colon as its type.
    kind = "method" if what in ("property", "attribute", "data") else what
    lines[:] = GoogleDocstring(lines, Config(), app, kind, name, obj, options).lines()
    if what == "class":
        rows = [row for row in fields(obj) if row.doc]
        lines += ["", *(f":param {row.name}: {row.doc}" for row in rows), ""]


def skip_fields(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """The fields of a named tuple, which are among the arguments of the class."""
    return True if isinstance(obj, FIELD_OF_TUPLE) else None
