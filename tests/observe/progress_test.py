import io
import sys

from coca_jax.observe import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


METRICS = {"train/loss": 1.25, "train/examples_per_second": 12345.6, "train/mfu": 0.5}


def test_plain_lines_at_log_points_only(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    now = iter([100.0, 160.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    shown = progress.Progress(1000, first_step=190)
    shown.update(199)
    shown.update(200, METRICS)
    shown.update(201)
    shown.update(400, METRICS)  # 200 steps a minute, 600 steps left
    shown.print("a table")
    shown.close()
    assert stream.getvalue().splitlines() == [
        "step 200/1,000 (20%)  loss 1.2500  12,346 examples/s",
        "step 400/1,000 (40%)  loss 1.2500  12,346 examples/s  0:03:00 left",
        "a table",
    ]


def test_a_bar_on_a_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = progress.Progress(100, first_step=40)
    shown.update(50, METRICS)
    shown.close()
    last = stream.getvalue().split("\r")[-1]
    assert "50/100" in last
    assert "loss 1.2500  12,346 examples/s" in last
