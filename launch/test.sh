#!/usr/bin/env bash
# Sets up .venv with the development tools and passes the tests; further words go to pytest.
EXTRAS=dev source "$(dirname "$0")/setup.sh"
.venv/bin/python -m pytest "$@"
