# Sourced by the other scripts: makes a virtual environment once and installs this checkout, with the
# extras that EXTRAS names. PYTHON chooses the interpreter (3.11 to 3.14), as a command or a path. The
# environment is VENV, by default .venv; if there is one already, of another Python than PYTHON, then
# it is .venv-3.13, for example. CONSTRAINTS is a file of versions to install. Sets `venv` to the folder.
set -euo pipefail
python=${PYTHON:-python3}
case $python in [!/]*/*) python=$PWD/$python ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null; }
if ! version=$(version_of "$python"); then
  # pyenv has a command for each of its versions, which fails unless that version is switched on.
  python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/${python#python}".*/bin/python 2> /dev/null | sort -V | tail -n 1 || true)
  version=$(version_of "$python") || { echo "PYTHON=${PYTHON:-python3} cannot be run" >&2; exit 127; }
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Python $version is too old: set PYTHON to 3.11 or newer, such as PYTHON=python3.12" >&2; exit 2; }
case ${VENV:-.venv} in
  /*) venv=$VENV ;;
  *) venv=$PWD/${VENV:-.venv} ;;
esac
if [ -n "${PYTHON:-}" ] && [ -x "$venv/bin/python" ] && [ "$(version_of "$venv/bin/python")" != "$version" ]; then
  venv=$venv-$version
fi
if [ ! -x "$venv/bin/python" ]; then
  echo "making $venv with Python $version"
  "$python" -m venv "$venv" || { rm -rf "$venv"; exit 2; }
fi
"$venv/bin/python" -m pip --version > /dev/null 2>&1 \
  || { echo "$venv has no pip: remove it, and run this again" >&2; exit 2; }
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:+[$EXTRAS]}" \
  ${CONSTRAINTS:+--constraint "$CONSTRAINTS"}
