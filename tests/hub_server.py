"""A stand-in of the Hugging Face hub on loopback, as far as models are downloaded and uploaded."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

import huggingface_hub.constants
import pytest

_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/(?P<call>preupload|commit)/main")
_LFS = re.compile(r"/(?P<repository>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
LARGE = 2**10  # bytes from which a file goes by LFS


class Hub(http.server.ThreadingHTTPServer):
    """A hub in memory.

    Attributes:
      repositories: ORG/NAME -> the files of its `main` by name.
      gated: repositories that need a token.
      private: repositories that were created so; those of others are public.
      token: the only token that it accepts.
      requests: (method, path) of each request.
      status: what to answer all requests with, if it is not 0.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated, self.private, self.objects = set(), set(), {}
        self.token, self.requests, self.status = "good", [], 0

    @property
    def address(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repository: str) -> str:
        """The commit of a repository's `main`, which changes with its files."""
        files = sorted(self.repositories[repository].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args) -> None:
        """Prints nothing."""

    def _answer(self, status: int, content: bytes | dict = b"", **headers: str) -> None:
        is_json = isinstance(content, dict)
        body = json.dumps(content).encode() if is_json else content
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if is_json else "application/binary")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def handle_one_request(self) -> None:
        """Ends a connection that the client has closed."""
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_HEAD(self) -> None:
        """Answers for a file."""
        self.server.requests.append((self.command, self.path))
        match = _RESOLVE.fullmatch(self.path)
        if self.server.status or not match:
            self._answer(self.server.status or 404)
            return
        files = self.server.repositories.get(match["repository"])
        if files is None:
            self._answer(404, X_Error_Code="RepoNotFound")
        elif match["repository"] in self.server.gated and not self._is_known():
            self._answer(
                403 if self.headers.get("Authorization") else 401, X_Error_Code="GatedRepo"
            )
        elif match["revision"] not in ("main", "v1", self.server.commit(match["repository"])):
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif match["file"] not in files:
            commit = self.server.commit(match["repository"])
            self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            content = files[match["file"]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            commit = self.server.commit(match["repository"])
            self._answer(200, content, ETag=etag, X_Repo_Commit=commit)

    def do_GET(self) -> None:
        """Answers with a file, or what is known of a repository."""
        name = self.path.removeprefix("/api/models/")
        if name == self.path or self.server.status or name not in self.server.repositories:
            self.do_HEAD()
            return
        self.server.requests.append((self.command, self.path))
        self._answer(200, {"id": name, "private": name in self.server.private, "siblings": []})

    def do_PUT(self) -> None:
        """Takes an object of LFS."""
        self.server.requests.append((self.command, self.path))
        self.server.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        """Creates a repository, or takes the parts of an upload."""
        self.server.requests.append((self.command, self.path))
        body = self._body()
        if self.server.status or not self._is_known():
            self._answer(self.server.status or 401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":  # of a model card
            self._answer(200, {"errors": [], "warnings": []})
        elif _LFS.fullmatch(self.path):
            self._lfs(json.loads(body))
        elif (match := _API.fullmatch(self.path)) and match["call"] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif match:
            self._commit(match["repository"], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": "not there"})

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        address = f"{self.server.address}/{name}"
        if asked["organization"] != "me":
            self._answer(403, {"error": "You don't have the rights to create a model there"})
            return
        if name in self.server.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": address})
            return
        self.server.repositories[name] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(name)
        self._answer(200, {"url": address, "name": name, "id": name})

    def _lfs(self, asked: dict) -> None:
        objects = [
            item | {"actions": {"upload": {"href": f"{self.server.address}/objects/{item['oid']}"}}}
            for item in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, lines: list[dict]) -> None:
        files = self.server.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = self.server.commit(repository)
        url = f"{self.server.address}/{repository}/commit/{commit}"
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url})


@contextlib.contextmanager
def hub_server(cache: str) -> Iterator[Hub]:
    """A running hub, which `huggingface_hub` uses in this process, with an empty cache."""
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            set_up(patch, server.address, cache)
            yield server
    finally:
        server.shutdown()
        server.server_close()


def set_up(patch: pytest.MonkeyPatch, address: str, cache: str) -> None:
    """Points `huggingface_hub`, which reads its environment on import, to a hub."""
    constants = huggingface_hub.constants
    patch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/token")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.delenv("HF_TOKEN", raising=False)
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
