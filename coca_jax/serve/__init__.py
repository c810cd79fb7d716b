"""An HTTP server of a loaded model: `coca serve`, its API and the page to try it."""

import importlib.util

from coca_jax.errors import UserError

PACKAGES = ("starlette", "uvicorn", "pydantic", "python_multipart", "prometheus_client")


def require_packages() -> None:
    """Checks that the packages of the extra `serve` are installed.

    Raises:
      UserError: one of them is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'coca serve needs {", ".join(missing)}: pip install "coca_jax[serve]"')
