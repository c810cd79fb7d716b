#!/usr/bin/env bash
# Sets up .venv with the development tools and runs the tests, a file of them on each core (up to
# four: each takes up to 4 GB). Further words go to pytest; `-n 0` is one process, as debuggers need.
# PYTHON=python3.13 tests with that interpreter.
EXTRAS=dev source "$(dirname "$0")/setup.sh"
"$venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
