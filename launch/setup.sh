# Sourced by the other scripts: makes a virtual environment once and installs this checkout, with the
# extras that EXTRAS names, unless that was the last installation there. PYTHON chooses the interpreter
# (3.11 to 3.14), as a command or a path; by default it is that of the environment, else python3. The
# environment is VENV, by default .venv; if there is one already, of another Python than PYTHON, then
# it is .venv-3.13, for example. CONSTRAINTS is a file of versions to install. Sets `venv` to the folder.
set -euo pipefail
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null; }
python=${PYTHON:-python3}
case $python in [!/]*/*) python=$PWD/$python ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${VENV:-.venv} in
  /*) venv=$VENV ;;
  *) venv=$PWD/${VENV:-.venv} ;;
esac
if [ -z "${PYTHON:-}" ] && version_of "$venv/bin/python" > /dev/null; then
  python=$venv/bin/python
fi
if ! version=$(version_of "$python"); then
  # pyenv has a command for each of its versions, which fails unless that version is switched on.
  python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/${python#python}".*/bin/python 2> /dev/null | sort -V | tail -n 1 || true)
  version=$(version_of "$python") || { echo "PYTHON=${PYTHON:-python3} cannot be run" >&2; exit 127; }
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Python $version is too old: set PYTHON to 3.11 or newer, such as PYTHON=python3.12" >&2; exit 2; }
if [ -n "${PYTHON:-}" ] && [ -x "$venv/bin/python" ] && [ "$(version_of "$venv/bin/python")" != "$version" ]; then
  venv=$venv-$version
fi
if [ ! -x "$venv/bin/python" ]; then
  if [ -n "$(ls -A "$venv" 2> /dev/null)" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    echo "$venv is no environment, and not empty: move it away, or set VENV to another folder" >&2
    exit 2
  fi
  echo "making $venv with Python $version"
  [ -e "$venv" ] || [ -L "$venv" ] && ours=no || ours=yes
  "$python" -m venv "$venv" || { [ "$ours" = no ] || rm -rf "$venv"; exit 2; }
fi
"$venv/bin/python" -m pip --version > /dev/null 2>&1 \
  || { echo "$venv has no pip: remove it, and run this again" >&2; exit 2; }
# A checksum of what is installed, and of what says so: an installation needs the network.
installation() {
  {
    echo "$PWD ${EXTRAS:-}"
    cat setup.py pyproject.toml coca_jax/__init__.py ${CONSTRAINTS:+"$CONSTRAINTS"}
    ls -d "$venv"/lib/*/site-packages/*.dist-info 2> /dev/null || true
  } | cksum
}
if [ "$(installation)" != "$(cat "$venv/installation" 2> /dev/null)" ]; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:+[$EXTRAS]}" \
    ${CONSTRAINTS:+--constraint "$CONSTRAINTS"}
  installation > "$venv/installation"
fi
