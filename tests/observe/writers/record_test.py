import concurrent.futures
import json
import threading
import time

from coca_jax.observe.writers import record


def test_trackers_that_begin_at_once_have_one_id(tmp_path, monkeypatch):
    write, begin = record.write_whole, threading.Barrier(2)

    def slow_write(path, content):
        time.sleep(0.1)  # the other one would look in the meantime
        write(path, content)

    def ask():
        begin.wait(20)
        return record.run_id(tmp_path)

    monkeypatch.setattr(record, "write_whole", slow_write)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = [pool.submit(ask) for _ in range(2)]
    stored = json.loads((tmp_path / "tracker.json").read_text())["id"]
    assert first.result() == second.result() == stored == record.run_id(tmp_path)
