import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from coca_jax import cli
from coca_jax.errors import UserError
from coca_jax.serve.server import bind, url

ROOT = pathlib.Path(__file__).parent.parent.parent

# A server of a model that only embeds texts, which takes half a second for a batch.
SERVER = """
import time, types
import numpy as np
from coca_jax.models import ImageConfig
from coca_jax.serve import server, service
from coca_jax.serve.limits import Limits
from coca_jax.serve.service import Served, Service

class Model:
    image = ImageConfig(size=32, patch=16)
    config = types.SimpleNamespace(has_cls=True, captioning=False, head=None, image=image)
    step, classes, params = 0, (), {"logit_scale": np.zeros(())}
    def tokenize(self, texts):
        return np.zeros((len(texts), 1), np.int32)
    def encode_text(self, ids):
        time.sleep(0.5)
        return np.ones((len(ids), 2), np.float32)

served = Service(Served(Model()), Limits(max_batch=2, max_latency=0.0))
server.run(served, server.bind("127.0.0.1", 0))
print("returned")
"""


@pytest.fixture
def process():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    call = [sys.executable, "-c", SERVER]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def embed(base):
    content = b'{"texts": ["a"]}'
    request = urllib.request.Request(
        f"{base}/v1/embed", content, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status


def in_progress(base):
    with urllib.request.urlopen(f"{base}/metrics", timeout=30) as answer:
        return int(
            float(re.search(r"^coca_requests_in_progress (.*)$", answer.read().decode(), re.M)[1])
        )


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_in_flight_loses_nothing(process, number):
    base = re.search(r"http://\S+", process.stdout.readline())[0]
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(embed(base))) for _ in range(6)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 30
    while in_progress(base) < len(threads) - len(statuses):
        assert time.monotonic() < end
    assert len(statuses) < len(threads)
    process.send_signal(number)
    for thread in threads:
        thread.join()
    assert statuses == [200] * len(threads)
    assert process.wait(30) == 0 and process.stdout.read() == "returned\n"
    with pytest.raises(OSError):
        embed(base)


def test_addresses_that_are_not_free_are_named():
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        assert url(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=f"--port {port} is in use"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1 is not an address of this machine"):
        bind("192.0.2.1", 0)
    with pytest.raises(UserError, match=r"--host no\.\.host"):
        bind("no..host", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "99999"),
        (["--port", "x"], "'x' should be a port"),
        (["--max-batch", "0"], "'0' should be a whole number"),
        (["--max-latency-ms", "-1"], "'-1' should be milliseconds"),
        (["--max-pixels", "999999999"], "at most 134217728 pixels"),
    ],
)
def test_options_out_of_range_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", "--model", "nowhere", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_port_in_use_a_model_or_a_package_that_is_missing_end_with_one_message(
    capsys, monkeypatch, tmp_path
):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        assert cli.main(["serve", "--model", "nowhere", "--port", port]) == 2
        assert capsys.readouterr().err.startswith(f"coca serve: --port {port} is in use")
    assert cli.main(["serve", "--model", str(tmp_path), "--port", "0"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert cli.main(["serve", "--model", "nowhere", "--images", "gs://bucket/images"]) == 2
    assert "gs://bucket/images: images to be searched" in capsys.readouterr().err
    assert cli.main(["serve", "--model", "nowhere", "--index", "x"]) == 2
    assert "--images" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else 1)
    assert cli.main(["serve", "--model", "nowhere"]) == 2
    assert 'needs uvicorn: pip install "coca_jax[serve]"' in capsys.readouterr().err
