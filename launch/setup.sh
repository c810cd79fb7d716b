# Sourced by the other scripts: makes a virtual environment once and installs this checkout, with the
# extras that EXTRAS names. PYTHON chooses the interpreter (3.11 to 3.14), as a command or a path. The
# environment is VENV, by default .venv; where that is of another version of Python than PYTHON, it is
# .venv-3.13, for example. CONSTRAINTS is a file of versions to install. Sets `venv` to the folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null; }
python=${PYTHON:-python3}
if ! version=$(version_of "$python"); then
  # pyenv has a command for each of its versions, which fails unless that version is switched on.
  python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/${python#python}".*/bin/python 2> /dev/null | tail -n 1 || true)
  version=$(version_of "$python") || { echo "PYTHON=${PYTHON:-python3} cannot be run" >&2; exit 127; }
fi
venv=$PWD/${VENV:-.venv}
if [ -n "${PYTHON:-}" ] && [ -x "$venv/bin/python" ] && [ "$(version_of "$venv/bin/python")" != "$version" ]; then
  venv=$venv-$version
fi
if [ ! -x "$venv/bin/python" ]; then
  echo "making $venv with Python $version"
  "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:+[$EXTRAS]}" \
  ${CONSTRAINTS:+--constraint "$CONSTRAINTS"}
