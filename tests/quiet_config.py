"""The smoke size of configs/shapes.py without evaluations, which take as long as training."""

SOURCE = """\
from coca_jax.config import load_config


def get_config(argument):
    config = load_config("configs/shapes.py:smoke")
    config.eval = {}
    return config
"""


def write(folder):
    """Writes the configuration file; it works in the repository's root."""
    file = folder / "quiet.py"
    file.write_text(SOURCE)
    return str(file)
