"""Settings of the documentation site; `docs/build.sh` builds it."""

import os
import pathlib
import sys

import coca_jax

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "coca_jax"
version = release = coca_jax.__version__
html_title = f"coca_jax {version}"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "source_signatures",
    "reference_coverage",
    "repository_links",
    "notebook_outputs",
    "sphinx_copybutton",
]
exclude_patterns = ["build", "examples", "extensions", "notebooks/runs"]
smartquotes_action = "D"  # dashes alone: quotes may be parts of code
myst_heading_anchors = 4  # links to headings, as on the repository's own pages

html_theme = "furo"
html_static_path, html_css_files = ["static"], ["site.css"]
html_show_sphinx = html_show_copyright = False

default_role = "py:obj"  # `name` in a docstring links to what has this name
# Annotations name what other packages define, too; what `coca_jax.` begins must be there.
nitpick_ignore_regex = [("py:(obj|class|exc)", r"(?!coca_jax\.).*")]
maximum_signature_line_length = 88
nb_execution_mode = os.environ.get("NOTEBOOKS", "force")
# The kernel, which is not started then, says in which language cells are.
suppress_warnings = ["myst-nb.lexer"] if nb_execution_mode == "off" else []
nb_merge_streams = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress bars, and what libraries warn of
nb_execution_timeout = 300  # seconds a cell
nb_execution_raise_on_error = True

autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
