#!/usr/bin/env bash
# Builds the documentation site into docs/build/html, with .venv, which is made if it is not there;
# VENV names another one. Whatever Sphinx warns of is an error. NOTEBOOKS=off leaves out running the notebooks.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
if ! "$venv/bin/python" -c "import furo, myst_nb, sphinx_copybutton" 2> /dev/null; then
  EXTRAS=docs source launch/setup.sh
fi
rm -rf docs/build/html docs/notebooks/runs  # the notebooks begin from nothing but the data set
export TFDS_DATA_DIR="${TFDS_DATA_DIR:-$PWD/docs/build/tfds}" JAX_PLATFORMS=cpu
export PATH="$(realpath "$venv")/bin:$PATH" PYTHONPATH="$PWD"
python -m sphinx --builder html --nitpicky --fail-on-warning --quiet --show-traceback \
  docs docs/build/html
echo "docs/build/html/index.html"
