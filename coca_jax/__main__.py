"""`python -m coca_jax` is `coca`."""

import sys

from coca_jax.cli import run

if __name__ == "__main__":
    sys.exit(run())
