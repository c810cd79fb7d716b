"""Where an exception comes from: its package, without importing that."""

# Packages whose own exceptions mean that a server or a store does not answer, or refuses.
NETWORK = (
    "aiohttp",
    "botocore",
    "gcsfs",
    "google.api_core",
    "google.auth",
    "http.client",
    "httpx",
    "requests",
    "s3fs",
    "urllib3",
)


def is_of(error: BaseException, modules: tuple[str, ...]) -> bool:
    """Whether a class of the exception is defined in one of these modules."""
    kinds = [f"{kind.__module__}." for kind in type(error).__mro__]
    return any(kind.startswith(f"{module}.") for kind in kinds for module in modules)


def is_network_error(error: BaseException) -> bool:
    """Whether a package for the network raised it."""
    return is_of(error, NETWORK)
