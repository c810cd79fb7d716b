"""The outputs of notebooks, as the pages show them."""

import re

import myst_nb.core.render
from docutils import nodes
from nbformat import NotebookNode
from sphinx.application import Sphinx

COLORS = re.compile(r"\x1b\[[0-9;]*m")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the handler."""
    # MyST-NB's own ends each piece of a command's output with a line break, wherever it was cut,
    # and puts what is printed between two images before the first one.
    myst_nb.core.render.coalesce_streams = join_streams
    app.connect("doctree-read", shorten)
    return {"parallel_read_safe": True}


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs of a cell, with consecutive pieces of a stream in one."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if "text" in output and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def shorten(app: Sphinx, doctree: nodes.document) -> None:
    """Makes the paths of this machine relative that commands have printed; leaves out colors."""
    folders = f"{app.srcdir}/notebooks/", f"{app.srcdir.parent}/"
    for node in doctree.findall(nodes.literal_block):
        text = node.astext()
        shortened = COLORS.sub("", text)
        for folder in folders:
            shortened = shortened.replace(folder, "")
        if shortened != text:
            node.children = [nodes.Text(shortened)]
