"""Modules that a local run imports, in a process of its own."""

import subprocess
import sys

CODE = """
import sys
import coca_jax, coca_jax.cli.parser, coca_jax.train.loop
from coca_jax.io import files, folders, paths
from coca_jax.io.locks import locked
files.write_whole(sys.argv[1] + "/x", b"1")
assert files.read_bytes(paths.as_path(sys.argv[1]) / "x") == b"1" and folders.tree(sys.argv[1])
with locked(sys.argv[1], "tested"):
    pass
stores = {"gcsfs", "s3fs", "aiobotocore", "aiohttp"}
assert not stores & set(sys.modules), stores & set(sys.modules)
"""


def test_packages_of_stores_are_imported_for_urls_only(tmp_path):
    call = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
