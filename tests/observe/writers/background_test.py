import pathlib
import threading
import time

import pytest

from coca_jax.errors import UserError
from coca_jax.observe.writers import MetricWriter, background, writers
from coca_jax.observe.writers.background import BackgroundWriter, described


class Listed:
    """Keeps its calls; those in `broken` raise an exception, those in `stuck` wait."""

    def __init__(self, broken=(), error=None, stuck=None):
        self.calls, self.broken, self.error, self.stuck = [], broken, error, stuck

    def write(self, step, values):
        if self.stuck:
            self.stuck.wait(20)
        if step in self.broken:
            raise self.error
        self.calls.append((step, values))

    def close(self):
        self.calls.append("closed")


def test_calls_are_made_in_order_and_old_writers_show_no_samples():
    inner = Listed()
    writer = BackgroundWriter("mine", lambda: inner)
    for step in range(5):
        writer.write(step, {"a": 1.0})
        writer.write_samples(step, {})
    writer.close()
    assert inner.calls == [*((step, {"a": 1.0}) for step in range(5)), "closed"]


@pytest.mark.parametrize("error", [ConnectionError("gone"), SystemExit("gone")])
def test_a_call_that_fails_is_reported_once_and_the_next_is_made(error, capfd):
    inner = Listed(broken=(1, 2), error=error)
    writer = BackgroundWriter("mine", lambda: inner)
    for step in range(4):
        writer.write(step, {})
    writer.close()
    assert inner.calls == [(0, {}), (3, {}), "closed"]
    first, last = capfd.readouterr().err.splitlines()
    name = type(error).__name__
    assert first.startswith(f"metrics do not reach mine: {name}: gone (background_test.py:")
    assert last == "2 log points are missing in mine"


def test_one_that_cannot_be_opened_is_tried_again_and_nothing_is_lost(monkeypatch, capfd):
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.01)
    inner, attempts, opened = Listed(), iter([OSError("down"), SystemExit("no key")]), []

    def make():
        if error := next(attempts, None):
            raise error
        opened.append(True)
        return inner

    writer = BackgroundWriter("mine", make)
    writer.write(1, {})
    while not opened:
        time.sleep(0.01)
    writer.close()
    assert inner.calls == [(1, {}), "closed"]
    assert capfd.readouterr().err.count("\n") == 1


def test_one_that_never_opens_costs_no_time(capfd):
    def make():
        raise OSError("no such server")

    writer, begin = BackgroundWriter("mine", make), time.monotonic()
    writer.write(1, {})
    writer.close()
    assert time.monotonic() - begin < 5
    assert "1 log point is missing in mine" in capfd.readouterr().err


def test_one_that_hangs_delays_no_step_and_the_end_only_shortly(monkeypatch, capfd):
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(background, "WAITING", 3)
    release = threading.Event()
    inner = Listed(stuck=release)
    writer, begin = BackgroundWriter("mine", lambda: inner), time.monotonic()
    for step in range(100):
        writer.write(step, {})
    writer.close()
    assert time.monotonic() - begin < 5
    first, last = capfd.readouterr().err.splitlines()
    assert "mine: 3 log points wait for it, and no more are kept; the run goes on" in first
    assert last == "100 log points are missing in mine"
    release.set()  # what it then does is harmless
    writer._thread.join(20)
    assert inner.calls[-1] == "closed" and len(inner.calls) <= 5


def test_what_waits_at_the_end_is_counted_after_an_earlier_failure(monkeypatch, capfd):
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.2)
    release = threading.Event()

    class Hanging(Listed):
        def write(self, step, values):
            if step == 3:
                release.wait(20)
            super().write(step, values)

    writer = BackgroundWriter("mine", lambda: Hanging(broken=(1,), error=OSError("gone")))
    for step in range(8):
        writer.write(step, {})
    writer.close()
    first, last = capfd.readouterr().err.splitlines()
    assert "OSError: gone" in first  # of step 1
    assert last == "6 log points are missing in mine"  # 1, 3 and those after it
    release.set()
    writer._thread.join(20)


def test_one_that_was_down_at_the_start_of_a_short_run_is_tried_at_its_end(capfd):
    inner, attempts, failed = Listed(), iter([OSError("down")]), threading.Event()

    def make():
        if error := next(attempts, None):
            failed.set()
            raise error
        return inner

    writer = BackgroundWriter("mine", make)
    writer.write(1, {})
    failed.wait(20)
    writer.close()
    assert inner.calls == [(1, {}), "closed"]
    assert "missing" not in capfd.readouterr().err


def test_one_that_opens_late_gets_the_backlog_once(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_added", {})
    may_open, made = threading.Event(), []
    config = {"writers": ("jsonl", "mine"), "options": {}}

    @writers.register("mine")
    class Mine(Listed):
        takes_backlog = True

        def __init__(self, workdir, resume_step):
            may_open.wait(20)
            super().__init__(broken=(1,), error=OSError("gone"))
            made.append(self)

    with MetricWriter(tmp_path, None, {"writers": ("jsonl",), "options": {}}) as writer:
        for step in (1, 2, 3, 4):
            writer.write(step, {"train/loss": 1.0})
    with MetricWriter(tmp_path, 3, config) as writer:
        writer.write(3, {"eval/a/b": 2.0})  # an evaluation that the last attempt had not made
        may_open.set()
    points = [(2, {"train/loss": 1.0}), (3, {"train/loss": 1.0}), (3, {"eval/a/b": 2.0})]
    assert made[0].calls == [*points, "closed"]


def test_the_record_still_stops_a_run_when_its_disk_is_full(tmp_path):
    writer = MetricWriter(tmp_path, None, {"writers": ("jsonl",), "options": {}})
    writer._writers[0]._file.close()
    writer._writers[0]._file = pathlib.Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(UserError, match="/dev/full cannot be written: No space left"):
        writer.write(1, {"a": 1.0})
    writer.close()


def test_only_the_named_writers_write_and_options_arrive(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_added", {})
    made = []

    @writers.register("mine")
    class Mine(Listed):
        def __init__(self, workdir, resume_step):
            super().__init__()
            made.append(self)

    MetricWriter(tmp_path / "a", None, {"writers": ("jsonl",), "options": {}}).close()
    assert not made and [path.name for path in (tmp_path / "a").iterdir()] == ["metrics.jsonl"]
    MetricWriter(tmp_path / "b", None, {"writers": ("mine",), "options": {}}).close()
    assert made[0].calls == ["closed"]


def test_errors_are_short_and_show_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    error = ValueError(f"http://me:pass@host/api refused\n{'k' * 40} {'x' * 1000}")
    line = described(error)
    assert line.startswith("ValueError: http://***@host/api refused *** xxx") and len(line) < 330
