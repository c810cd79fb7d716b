"""Links that the pages make to files of the repository, on the site.

A link to a file that is not a page becomes a download; MyST does that, and warns if the file does
not exist. What README says is on the first page.
"""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the handler."""
    app.connect("source-read", redirect)
    return {"parallel_read_safe": True}


def redirect(app: Sphinx, page: str, source: list[str]) -> None:
    """Turns links to README into links to the first page."""
    source[0] = source[0].replace("](../README.md", "](index.md")
