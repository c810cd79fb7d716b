import os
import subprocess
import sys
import threading

import pytest
import stores

from coca_jax.errors import UserError
from coca_jax.io import leases
from coca_jax.io.locks import locked


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request):
    """The URL of a bucket in a real server."""
    with stores.gcs_store() if request.param == "gs" else stores.s3_store():
        yield f"{request.param}://{stores.BUCKET}"


@pytest.fixture
def folder(bucket, request):
    return f"{bucket}/{request.node.name}"


@pytest.fixture
def fast(monkeypatch):
    """Leases of half a second."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.05)


def test_one_holder_at_a_time(folder, capsys):
    with locked(folder, "trained") as check:
        check()
        message = f"is being tested by process {os.getpid()} on"
        with pytest.raises(UserError, match=message), locked(folder, "tested"):
            pass
    with locked(folder, "tested"):  # the first has let go of it
        pass


def test_of_many_that_want_it_each_gets_it_alone(folder, fast):
    held, failures = [], []

    def hold():
        try:
            with locked(folder, "trained", patience=30.0):
                held.append(1)
                if len(held) > 1:
                    failures.append("two hold it")
                held.pop()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not held


def test_a_holder_that_renews_keeps_it_and_one_that_does_not_loses_it(folder, fast, capsys):
    with locked(folder, "trained") as check:
        with pytest.raises(UserError, match="is being tested"), locked(folder, "tested", 1.5):
            pass
        assert "waiting up to 1.5 s" in capsys.readouterr().err
        check()
    silent = leases._Claim(folder, "trained")
    silent._renew_all_along = lambda: None
    silent._thread = threading.Thread(target=lambda: None)
    silent.take(0.0)
    message = "was taken over by process"
    with locked(folder, "tested", 5.0), pytest.raises(UserError, match=message):
        silent.check()
    silent.release()


def test_a_write_whose_answer_was_lost_is_the_holders_own(folder):
    claim = leases._Claim(folder, "trained")
    claim.take(0.0)
    write = claim._object.write

    def written_but_not_answered(content, version):
        write(content, version)
        raise ConnectionResetError

    claim._object.write = written_but_not_answered
    with pytest.raises(ConnectionResetError):
        claim._renew()
    claim._object.write = write
    claim._renew()
    claim.check()
    claim.release()
    with locked(folder, "tested"):
        pass


HOLDER = """
import os, sys
from coca_jax.io.locks import locked
with locked(sys.argv[1], "trained"):
    os._exit(9)
"""


def test_a_holder_of_this_machine_that_died_has_no_lease(folder):
    died = subprocess.run([sys.executable, "-c", HOLDER, folder], capture_output=True)
    assert died.returncode == 9, died.stderr
    with locked(folder, "tested"):
        pass
