"""The errors that a request is answered with."""

from collections.abc import Mapping
from typing import Any


class RequestError(Exception):
    """A request that is answered with this status and message."""

    def __init__(
        self,
        status: int,
        message: str,
        details: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.details = status, message, details
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON that the answer has."""
        content: dict[str, Any] = {"message": self.message}
        if self.details:
            content["details"] = self.details
        return {"error": content}
