"""Leases on folders in object stores, which have no locks and for which no library has any.

The claim is the object `.lock`. It is only ever written on condition that it is still the version
that was read (GCS: its generation; S3: its ETag), so of two processes that want it one gets it.
Its holder writes it anew every `RENEW_SECONDS`. A claim that has not changed for `LEASE_SECONDS`,
by the clock of the process that waits for it, or whose holder was a process of this machine that is
gone, is free.

What it promises: two processes never both believe that they hold the folder, as long as the holder
can reach the store. A holder that could not for `LEASE_SECONDS` renews its claim before it goes on
(`check`), and ends with an error if another process has taken it.
"""

import contextlib
import json
import os
import platform
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from coca_jax.errors import UserError
from coca_jax.io.paths import join, system_of

LEASE_SECONDS = 45.0
RENEW_SECONDS = 10.0
_CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict")  # S3's codes
LOOK_SECONDS = 1.0  # between looks at a claim that another process holds


@contextlib.contextmanager
def leased(url: str, doing: str, patience: float) -> Iterator[Callable[[], None]]:
    """Holds the claim of a folder; see `locks.locked` for arguments and errors."""
    claim = _Claim(url, doing)
    claim.take(patience)
    try:
        yield claim.check
    finally:
        claim.release()


class _Claim:
    """The object `.lock` of a folder, as one process reads and writes it."""

    def __init__(self, url: str, doing: str):
        self._url, self._doing = url, doing
        self._object = _Object(join(url, ".lock"))
        self._mine = uuid.uuid4().hex
        self._holder = f"process {os.getpid()} on {platform.node()}"
        self._count, self._renewed = 0, 0.0
        self._version: str | None = None
        self._lost = ""
        self._guard = threading.Lock()  # of writing
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_all_along, daemon=True)

    def take(self, patience: float) -> None:
        """Takes the claim once it is free, and begins to renew it.

        Raises:
          UserError: another process still held it after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        seen, since, said = None, time.monotonic(), False
        while True:
            content, version = self._object.read()
            if version != seen:
                seen, since = version, time.monotonic()
            is_old = time.monotonic() - since >= LEASE_SECONDS
            if not content.get("holder") or is_old or _is_gone(content.get("process")):
                self._version = version
                if self._write():
                    break
                continue
            busy = f"{self._url} is being {self._doing} by {content['holder']}"
            if time.monotonic() >= deadline:
                raise UserError(busy)
            if not said:
                print(f"{busy}; waiting up to {patience:g} s", file=sys.stderr)
                said = True
            time.sleep(min(LOOK_SECONDS, patience))
        self._thread.start()

    def check(self) -> None:
        """Raises a UserError if another process has taken the claim."""
        if time.monotonic() - self._renewed > LEASE_SECONDS:
            self._renew()
        if self._lost:
            raise UserError(self._lost)

    def release(self) -> None:
        """Ends the claim; what cannot be written now will be old in `LEASE_SECONDS`."""
        self._ended.set()
        self._thread.join()
        if not self._lost:
            with contextlib.suppress(Exception):
                self._write(holder="")

    def _renew_all_along(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self._lost:
            with contextlib.suppress(Exception):  # the next time may be better
                self._renew()

    def _renew(self) -> None:
        if self._write():
            return
        content, _ = self._object.read()
        holder = content.get("holder") or "another process"
        self._lost = f"{self._url} was taken over by {holder}, since this process could not renew"

    def _write(self, holder: str | None = None) -> bool:
        """Writes the claim if it is still as this process knows it; whether it was."""
        with self._guard:
            begin = time.monotonic()
            self._count += 1
            content = {
                "holder": self._holder if holder is None else holder,
                "process": _identity(os.getpid()),
                "claim": [self._mine, self._count],
            }
            while not self._replace(content):
                stored, version = self._object.read()
                claim = stored.get("claim")
                if not isinstance(claim, list) or claim[:1] != [self._mine]:
                    return False
                # A request that is sent again, or whose answer was lost, meets its own content.
                self._version = version
                if claim == content["claim"]:
                    break
            self._renewed = begin
            return True

    def _replace(self, content: dict[str, Any]) -> bool:
        try:
            self._version = self._object.write(content, self._version)
        except FileExistsError:
            return False
        return True


class _Object:
    """An object that is replaced on condition; a version is GCS's generation or S3's ETag."""

    def __init__(self, url: str):
        self._system, self._name = system_of(url)
        self._is_s3 = url.startswith("s3://")
        self._bucket, _, self._key = self._name.partition("/")

    def read(self) -> tuple[dict[str, Any], str | None]:
        """The content (empty if it is not a valid claim) and the version (None if absent)."""
        try:
            info = self._system.info(self._name)
            data = self._system.cat_file(self._name)
        except FileNotFoundError:
            return {}, None
        version = info["ETag"].strip('"') if self._is_s3 else str(info["generation"])
        try:
            content = json.loads(data)
        except ValueError:
            content = {}
        return content if isinstance(content, dict) else {}, version

    def write(self, content: dict[str, Any], version: str | None) -> str:
        """Replaces the version (None: there should be none) and returns the new one.

        Raises:
          FileExistsError: it has another version.
        """
        data = json.dumps(content).encode()
        return (self._put_s3 if self._is_s3 else self._put_gcs)(data, version)

    def _put_gcs(self, data: bytes, version: str | None) -> str:
        where = f"{self._system._location}/upload/storage/v1/b/{urllib.parse.quote(self._bucket)}/o"
        condition = {"ifGenerationMatch": version or "0"}
        options = {"uploadType": "media", "name": self._key, "data": data, "json_out": True}
        return str(self._system.call("POST", where, **options, **condition)["generation"])

    def _put_s3(self, data: bytes, version: str | None) -> str:
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        options = {"Bucket": self._bucket, "Key": self._key, "Body": data}
        try:
            return self._system.call_s3("put_object", **options, **condition)["ETag"].strip('"')
        except FileNotFoundError as error:  # of IfMatch: the object was removed
            raise FileExistsError(str(error)) from error
        except OSError as error:
            answer = getattr(error.__cause__, "response", {})  # botocore's
            if answer.get("Error", {}).get("Code") in _CONFLICTS:
                raise FileExistsError(str(error)) from error
            raise


def _identity(process: int) -> list[str] | None:
    """An identifier of a process that no other process ever has; None if there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{process}/stat") as file:
            started = file.read().rpartition(")")[2].split()[19]
        return [boot, os.readlink("/proc/self/ns/pid"), str(process), started]
    except (OSError, IndexError):
        return None


def _is_gone(identity: Any) -> bool:
    """Whether a holder was a process of this machine that runs no more."""
    mine = _identity(os.getpid())
    if not mine or not isinstance(identity, list) or identity[:2] != mine[:2]:
        return False
    return not str(identity[2]).isdecimal() or _identity(int(identity[2])) != identity
