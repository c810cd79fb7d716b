"""Secrets in texts that are shown or stored."""

import os
import re

SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# Between `://` and `@`. A user has neither "/" nor ":", but some databases take any password.
_PASSWORD = re.compile(r"(?<=://)[^\s/@:]*(?::\S*)?(?=@)")


def has_password(uri: str) -> bool:
    """Whether a URI holds a user or a password."""
    return _PASSWORD.search("".join(uri.split())) is not None


def hidden(text: str) -> str:
    """A text with `***` for the secrets of the environment, and for users and passwords of URIs."""
    for secret in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(secret, "***")
    return _PASSWORD.sub("***", text)
