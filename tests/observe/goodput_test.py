"""Wall time over several attempts, against sums made by hand."""

import json
import time

import pytest

from coca_jax.observe.goodput import Goodput, read_attempts, totals


def attempt(began, first, last, step, **others):
    kinds = dict.fromkeys(("start", "compile", "data", "checkpoint", "evaluation"), 0.0)
    return {
        "began": began,
        "first_step": first,
        "last_step": last,
        "seconds": kinds | {"step": step} | others,
    }


def test_steps_after_the_last_checkpoint_are_lost():
    first = attempt(1000.0, 0, 50, 100.0, start=5.0, compile=15.0)  # 2 s a step, until 1120
    second = attempt(1150.0, 40, 100, 120.0, start=10.0)  # went on from step 40
    found = totals([first, second])
    assert found["lost_seconds"] == pytest.approx(20.0)  # steps 41 to 50
    assert found["step_seconds"] == pytest.approx(200.0)
    assert found["away_seconds"] == pytest.approx(30.0)
    assert found["wall_seconds"] == pytest.approx(250.0)
    assert found["share"] == pytest.approx(200 / 250)
    assert found["attempts"] == 2


def test_steps_are_lost_to_any_later_attempt():
    found = totals(
        [attempt(0, 0, 100, 100.0), attempt(200, 80, 90, 10.0), attempt(300, 60, 160, 100.0)]
    )
    assert found["lost_seconds"] == pytest.approx(50.0)  # 61 to 100, and 81 to 90
    assert found["step_seconds"] == pytest.approx(160.0)


def test_a_clock_that_is_set_back_leaves_the_record_whole(tmp_path, monkeypatch):
    days, real = 0, time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * days)
    goodput = Goodput(tmp_path, time.time())
    goodput.start(0)
    with goodput.spent("checkpoint"):
        days = -1
    goodput.write(5)
    assert len(read_attempts(tmp_path)) == 1


def test_an_attempt_that_made_no_step_costs_only():
    found = totals([attempt(0.0, 7, 7, 0.0, start=4.0), attempt(10.0, 7, 9, 6.0)])
    assert found["lost_seconds"] == 0 and found["share"] == pytest.approx(0.6)


def test_all_wall_time_is_somewhere_and_the_file_goes_on(tmp_path):
    for first in (0, 4):
        began = time.time()
        goodput = Goodput(tmp_path, began)
        with goodput.spent("compile"):
            time.sleep(0.02)
        goodput.start(first)
        with goodput.spent("data"):
            time.sleep(0.03)
        goodput.write(first + 5)
        wall = time.time() - began
    attempts = read_attempts(tmp_path)
    assert [a["first_step"] for a in attempts] == [0, 4]
    seconds = attempts[1]["seconds"]
    assert sum(seconds.values()) <= wall
    assert seconds["compile"] >= 0.02 and seconds["data"] >= 0.03
    values = goodput.read(9)
    assert values["goodput/attempts"] == 2 and values["goodput/lost_seconds"] > 0


def test_a_damaged_file_is_no_obstacle(tmp_path):
    (tmp_path / "goodput.json").write_text('[{"beg')
    assert read_attempts(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        None,
        5,
        {"began": "now"},
        {"began": float("nan")},
        {"first_step": None},
        {"last_step": -1},
        {"seconds": []},
        {"seconds": {"step": True}},
        {"seconds": {"step": 1.0, "unknown": 2.0}},
    ],
)
def test_a_damaged_record_is_named_and_does_not_count(tmp_path, capsys, damage):
    good = attempt(1000.0, 0, 50, 100.0)
    bad = good | damage if isinstance(damage, dict) else damage
    (tmp_path / "goodput.json").write_text(json.dumps([bad, good]))
    assert read_attempts(tmp_path) == [good]
    assert "goodput.json has 1 damaged record, which is left out" in capsys.readouterr().err
