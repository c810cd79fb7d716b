"""Models on the Hugging Face hub, read and written through `huggingface_hub`.

Cache, token, endpoint and offline mode are that package's own (`HF_HOME`, `HF_TOKEN`,
`HF_ENDPOINT`, `HF_HUB_OFFLINE`).
"""

import errno
import json
import os
import pathlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from coca_jax.errors import UserError
from coca_jax.interop.shards import INDEX, NAMES, read_index
from coca_jax.io import http

PREFIX = "hf-hub:"
CARD = "README.md"
SETTINGS = "open_clip_config.json"  # OpenCLIP's configuration of a model
# What `transformers` and timm say of a model, where OpenCLIP's configuration is not there.
OTHER_SETTINGS = ("config.json", "preprocessor_config.json")
# Of a tokenizer; most repositories have but a few of them, and CLIP's needs none.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
OWN_TOKENIZER = "tokenizer.model"  # a SentencePiece model, where this package wrote the folder
PACKAGES = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests")
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")
T = TypeVar("T")


class HubName(NamedTuple):
    """A repository of models, at a branch, tag or commit."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(path: str | os.PathLike) -> bool:
    """Whether a path is a name on the hub, and not a file that is called so."""
    text = os.fspath(path)
    return isinstance(text, str) and text.startswith(PREFIX) and not os.path.lexists(text)


def is_repository(text: str) -> bool:
    """Whether a text has the form ORG/NAME or ORG/NAME@REVISION."""
    return _NAME.fullmatch(text) is not None


def parse(text: str) -> HubName:
    """The repository and revision of `hf-hub:ORG/NAME[@REVISION]`; the prefix may be absent.

    Raises:
      UserError: the text is not such a name.
    """
    match = _NAME.fullmatch(text.removeprefix(PREFIX))
    if not match:
        raise UserError(f"{text!r} should be {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION")
    return HubName(match["repository"], match["revision"])


def public_name(path: str | os.PathLike) -> str:
    """A path as it may be published: a name on the hub whole, of others only the last part.

    Folders say something of a machine, and a URL's query or password may be secret.
    """
    text = os.fspath(path).rstrip("/")
    if is_hub_name(text):
        return text
    if http.is_http(text):
        text = http.shown(text).partition("?")[0].partition("#")[0].rstrip("/")
    return text.replace("\\", "/").rpartition("/")[2]


def download(text: str) -> pathlib.Path:
    """The local folder of a model on the hub: configuration, weights and tokenizer.

    Files that are in the cache are not downloaded again, and no others of the repository are.

    Args:
      text: `hf-hub:ORG/NAME[@REVISION]`.

    Raises:
      UserError: `huggingface_hub` is not installed, the repository, its revision or its weights
        are not there or not open to this user, or the hub does not answer.
    """
    files = _Files(parse(text))
    settings = files.get(SETTINGS)
    weights = next(filter(None, map(files.get, NAMES)), None)
    if weights is None:
        raise files.missing(NAMES)
    if weights.name.endswith(INDEX):
        for shard in dict.fromkeys(read_index(weights).values()):
            if files.get(shard) is None:
                raise files.missing([shard])
    for name in _tokenizer_files(settings) if settings else OTHER_SETTINGS:
        files.get(name)
    return weights.parent


def upload(text: str, files: Mapping[str, str | bytes], private: bool) -> str:
    """Uploads files to a repository, which is created if there is none, in one commit.

    Args:
      text: ORG/NAME, with or without `hf-hub:`.
      files: content, or the path of a local file, by the name in the repository. Others of its
        files stay as they are, and so does a README.md, which people edit there.
      private: whether a new repository is private. One that is there and public is refused.

    Returns:
      The repository's address.

    Raises:
      UserError: `huggingface_hub` is not installed, there is no token, or it may not write; the
        repository should be private and is public; or the hub does not answer.
    """
    name = parse(text)
    if name.revision:
        raise UserError(f"{text!r} should be ORG/NAME: uploads go to the main branch")
    hub = _import_hub(name)
    if hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{name}: HF_HUB_OFFLINE forbids to upload it: unset that variable")
    api, repository = hub.HfApi(), name.repository
    address = _run(name, lambda: api.create_repo(repository, private=private, exist_ok=True))
    if private and not _run(name, lambda: api.repo_info(repository)).private:
        raise UserError(
            f"--private: {address} is public already, and nothing was uploaded; make it private "
            "in its settings there, or give another name"
        )
    has_card = _run(name, lambda: api.file_exists(repository, CARD))
    operations = [
        hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
        for file, content in files.items()
        if not (has_card and file == CARD)
    ]
    message = "Upload a model of coca_jax"
    _run(name, lambda: api.create_commit(repository, operations, commit_message=message))
    return str(address)


class _Files:
    """The files of one revision: once one is there, the others are of the same commit."""

    def __init__(self, name: HubName):
        self._name, self._revision, self._hub = name, name.revision, _import_hub(name)
        self._unanswered: Exception | None = None  # why only the cache is looked at

    def get(self, file: str) -> pathlib.Path | None:
        """A file's local path; None if the repository has no such file.

        Once the hub has not answered, it is not asked again, and the cache is all there is.
        """
        errors = self._hub.errors

        def fetch() -> str | None:
            try:
                return self._hub.hf_hub_download(
                    self._name.repository,
                    file,
                    revision=self._revision,
                    local_files_only=self._unanswered is not None,
                )
            except errors.LocalEntryNotFoundError as error:
                self._unanswered = self._unanswered or error
                return None
            except errors.EntryNotFoundError:
                return None

        path = _run(self._name, fetch)
        if path is None:
            return None
        self._revision = pathlib.Path(path).parents[file.count("/")].name
        return pathlib.Path(path)

    def missing(self, files: Collection[str]) -> UserError:
        """The error of files that are not there."""
        if self._unanswered is not None:
            return _explained(self._name, self._unanswered)
        return UserError(f"{self._name} holds no weights: none of {', '.join(files)}")


def _tokenizer_files(settings: pathlib.Path) -> Collection[str]:
    """The files of a tokenizer that a configuration names."""
    try:
        content = json.loads(settings.read_bytes())
        own, text = content.get("coca_jax", {}), content["model_cfg"]["text_cfg"]
        if own.get("tokenizer") == "sentencepiece":
            return (OWN_TOKENIZER,)
        return TOKENIZER if text.get("hf_tokenizer_name") else ()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ()  # the reader of the configuration says what is wrong with it


def _import_hub(name: HubName) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            f"{name} needs the package huggingface_hub: pip install 'coca_jax[hub]'"
        ) from error
    return huggingface_hub


def _run(name: HubName, call: Callable[[], T]) -> T:
    """Calls a function of `huggingface_hub`; its errors become a UserError."""
    try:
        return call()
    except Exception as error:  # those of hf_xet are RuntimeErrors
        package = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError | RuntimeError) and package not in PACKAGES:
            raise
        raise _explained(name, error) from error


def _explained(name: HubName, error: BaseException) -> UserError:
    """The error in one sentence: what is missing, and what fixes it."""
    hub = _import_hub(name)
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OSError) and error.errno in OF_DISKS:
        where = error.filename or hub.constants.HF_HUB_CACHE
        return UserError(f"{name} cannot be kept in the cache: {where}: {error.strerror}")
    has_token = hub.get_token() is not None
    ask = "log in by `hf auth login`, or set HF_TOKEN" if not has_token else "use another token"
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{name} is gated: accept its conditions at {endpoint}/{name.repository}, and {ask}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = f"; if it is private, {ask}" if status in (401, 403, 404) else ""
        return UserError(f"{name}: there is no such repository of models at {endpoint}{hint}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{name}: the repository has no revision {name.revision or 'main'!r}")
    if status in (401, 403):
        return UserError(f"{name}: {endpoint} refuses access ({status}): {ask}")
    if hub.constants.HF_HUB_OFFLINE:
        return UserError(
            f"{name} is not in the cache {hub.constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
            "to download it: unset that variable, or download it where there is a network"
        )
    if status is not None:
        return UserError(f"{name}: {endpoint} answered with the status {status}")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{name} is not a name that the hub allows: {error}")
    is_lost = isinstance(error, errors.LocalEntryNotFoundError)
    cause = (error.__cause__ if is_lost else None) or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    why = f"it answers with the status {status}" if status else str(cause).split("\n")[0]
    if is_lost:
        return UserError(f"{name} is not in the cache, and {endpoint} does not give it: {why}")
    return UserError(f"{name}: {endpoint} does not answer: {why}")
