import itertools
import pathlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from memory_source import MemorySource, record

from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.captions import CaptionMaker
from coca_jax.data.examples import BatchMaker, DataError, DataSet
from coca_jax.data.mixture import Mixture
from coca_jax.data.pipeline import TrainStream, evaluation_batches
from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.transforms.augment import Augment
from coca_jax.errors import UserError

SIZE = 10
ALONE = {"": SIZE}
MIXED = {"a": 16, "b": 5}


def draw(refs, rngs):
    return {
        "index": np.array([ref.index for ref in refs], np.int32),
        "source": np.array([ref.source for ref in refs], np.int32),
        "draw": np.array([rng.integers(1 << 30) for rng in rngs], np.int32),
        "errors": tuple(DataError(f"shard {ref.index}", "bad_text") for ref in refs),
    }


def stream(batch_size=4, seed=0, make_batch=draw, sizes=ALONE, **options):
    mixture = Mixture(sizes, {name: float(len(sizes) > 1) for name in sizes}, seed)
    options = {"threads": 2} | options
    return TrainStream(
        mixture, make_batch, batch_sizes=BatchSizes(batch_size), seed=seed, **options
    )


def take(batches, count):
    return list(itertools.islice(batches, count))


def flat(batches, key="index"):
    return np.concatenate([batch[key] for batch in batches]).tolist()


def rows(batches):
    keys = ("index", "source", "draw")
    return list(zip(*(flat(batches, key) for key in keys), strict=True))


@pytest.fixture(scope="module", params=[ALONE, MIXED], ids=["alone", "mixed"])
def sizes(request):
    return request.param


@pytest.fixture(scope="module")
def examples(sizes):
    """The first 60 examples, one after the other: what every other way to get them must give."""
    return rows(take(stream(batch_size=1, threads=1, sizes=sizes).batches(), 60))


def test_every_epoch_has_all_records_in_another_order(examples, sizes):
    for source, size in enumerate(sizes.values()):
        indices = [index for index, drawn, _ in examples if drawn == source]
        epochs = [indices[start : start + size] for start in range(0, len(indices), size)]
        whole = [epoch for epoch in epochs if len(epoch) == size]
        assert all(sorted(epoch) == list(range(size)) for epoch in whole)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs) > 1


def test_records_are_drawn_anew_each_time(examples):
    assert len({drawn for _, _, drawn in examples}) == 60


@pytest.mark.parametrize("processes, seen", [(1, 8), (2, 13), (4, 0)])
def test_global_batch_does_not_depend_on_processes_or_restarts(examples, sizes, processes, seen):
    options = {"process_count": processes, "threads": 1 + processes, "sizes": sizes}
    streams = [stream(process_index=i, **options).batches(seen) for i in range(processes)]
    for start in range(seen, seen + 24, 4):
        batches = [next(batches) for batches in streams]
        assert all(len(batch["index"]) == 4 // processes for batch in batches)
        assert rows(batches) == examples[start : start + 4]


@pytest.mark.parametrize("workers, processes", [(1, 1), pytest.param(3, 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", [MIXED], ids=["mixed"], indirect=True)
def test_workers_make_the_same_batches(examples, sizes, workers, processes):
    options = {"workers": workers, "process_count": processes, "sizes": sizes}
    streams = [stream(process_index=i, **options) for i in range(processes)]
    iterators = [one.batches(8) for one in streams]
    for start in range(8, 36, 4):
        assert rows([next(iterator) for iterator in iterators]) == examples[start : start + 4]
    for one, iterator in zip(streams, iterators, strict=True):
        assert sum(one.errors.values()) == 28 // processes
        iterator.close()


SIGNALLED = """
import os, signal, sys, time
import numpy as np
from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.mixture import Mixture
from coca_jax.data.pipeline import TrainStream

def slow(refs, rngs):
    time.sleep(0.3)
    return {"worker": np.array([os.getpid()])}

if __name__ == "__main__":
    os.setpgrp()
    mixture = Mixture({"": 4000}, {"": 0.0}, 0)
    stream = TrainStream(mixture, slow, batch_sizes=BatchSizes(4), seed=0, threads=1, workers=2)
    batches = stream.batches()
    workers = {int(next(batches)["worker"][0]) for _ in range(2)}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
        os.killpg(0, number)
    workers |= {int(next(batches)["worker"][0]) for _ in range(12)}
    open(sys.argv[1], "w").write(" ".join(map(str, workers)))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_outlive_signals_but_not_their_parent(tmp_path):
    script, answer = tmp_path / "signalled.py", tmp_path / "workers"
    script.write_text(SIGNALLED)
    done = subprocess.run([sys.executable, script, answer], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    workers = [int(word) for word in answer.read_text().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.1)


def test_the_seed_changes_the_order(examples, sizes):
    assert rows(take(stream(seed=1, sizes=sizes).batches(), 5)) != examples[:20]


def test_errors_are_counted_and_the_worst_shards_named():
    one = stream(sizes={"": 6})
    batches = one.batches()
    assert one.worst_shards() == "" and "errors" not in next(batches)
    take(batches, 5)
    assert sum(one.errors.values()) == 24 and one.errors[DataError("shard 3", "bad_text")] == 4
    one.errors[DataError("shard 5", "bad_image")] += 9
    one.errors[DataError("shard 1", "filtered_field")] += 99
    assert one.worst_shards(1) == "shard 5 (13)"


def test_a_batch_may_be_larger_than_the_data_set():
    (batch,) = take(stream(batch_size=25).batches(), 1)
    assert sorted(batch["index"][:20].tolist()) == sorted([*range(SIZE), *range(SIZE)])


def test_indivisible_batches_are_an_error():
    with pytest.raises(UserError, match="batch size 4 is not divisible by the 3 processes"):
        stream(process_count=3)


def test_errors_reach_the_reader():
    def fail(refs, rngs):
        raise UserError("the data set is bad")

    with pytest.raises(UserError, match="the data set is bad"):
        next(stream(make_batch=fail).batches())


def test_bad_records_do_not_change_the_others(plain_source):
    broken = MemorySource(plain_source)
    broken[3] = record(b"", ["broken"], label=3)
    epochs = []
    for source in (plain_source, broken):
        data_set = DataSet(source, CaptionMaker(), Augment((8, 8)))
        make = BatchMaker([data_set], ByteTokenizer(), image_size=(8, 8), text_length=16)
        epochs.append(take(stream(8, make_batch=make, sizes={"": 24}).batches(), 3))
    good, bad = ({key: np.concatenate([b[key] for b in e]) for key in e[0]} for e in epochs)
    place = good["image"][:, 0, 0, 0].tolist().index(3)
    assert good["bad_image"].sum() == 0
    assert bad["bad_image"].tolist() == [int(row == place) for row in range(24)]
    for key in ("image", "text"):
        same = [(a == b).all() for a, b in zip(good[key], bad[key], strict=True)]
        assert same == [row != place for row in range(24)]


def test_evaluation_reads_every_record_once_in_order(plain_source):
    batches = list(evaluation_batches(plain_source, (4, 6), 10))
    assert [len(batch["image"]) for batch in batches] == [10, 10, 4]
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == list(range(24))
    pixels = np.concatenate([batch["image"] for batch in batches])
    assert pixels.shape == (24, 4, 6, 3) and pixels[:, 0, 0, 0].tolist() == list(range(24))
    assert batches[2]["captions"] == [[f"picture {i}"] for i in range(20, 24)]
    assert sum(batch["bad_image"] for batch in batches) == 0


def test_evaluation_reads_no_more_than_the_limit(plain_source):
    batches = list(evaluation_batches(plain_source, (4, 4), 4, limit=7))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == list(range(7))


@pytest.mark.parametrize("bad", [[0], [4, 5], [22, 23], [3, 23]])
def test_evaluation_leaves_out_and_counts_unreadable_images(plain_source, bad):
    source = MemorySource(
        r | {"image": b"broken"} if r["label"] in bad else r for r in plain_source
    )
    batches = list(evaluation_batches(source, (4, 4), 5))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [
        i for i in range(24) if i not in bad
    ]
    assert [len(batch["label"]) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    assert sum(batch["bad_image"] for batch in batches) == len(bad)


def test_equal_bytes_and_half_characters_are_reported(plain_source, capsys):
    one, two = plain_source[0]["image"], plain_source[1]["image"]
    images = [one, two, one, [one, two], [two, one]]
    source = MemorySource([record(image, ["a", "b \ud800", "c"]) for image in images])
    (batch,) = evaluation_batches(source, (4, 4), 5)
    first, _, again, *lists = batch["digest"]
    assert first == again and len({*batch["digest"]}) == 4 and lists[0] != lists[1]
    assert batch["captions"] == [["a", "c"]] * 5
    assert "captions of 5 of 5 images are left out" in capsys.readouterr().err


def test_secrets_in_the_urls_of_shards_are_not_reported(plain_source, monkeypatch, capsys):
    monkeypatch.setattr(MemorySource, "shard", lambda *_: "https://me:pw@h/a.tar?key=1")
    odd = record(plain_source[0]["image"], [True])
    assert len(list(evaluation_batches(MemorySource([record(b"", []), odd]), (4, 4), 5))) == 1
    assert capsys.readouterr().err.count("of https://...@h/a.tar?...: ") == 2


def test_captions_that_a_source_left_out_are_reported_in_evaluations(plain_source, capsys):
    image = plain_source[0]["image"]
    found = record(image, ["a"]) | {"no_text": "5 is not text"}
    source = MemorySource([record(image, ["b"]), found, record(image, ["c", True])])
    (batch,) = evaluation_batches(source, (4, 4), 5)
    assert batch["captions"] == [["b"], ["a"], ["c"]] and "no_text" not in batch
    said = capsys.readouterr().err
    assert "captions of 2 of 3 images are left out, the first of record 1" in said
    assert "5 is not text" in said


def test_a_batch_has_what_only_some_records_have(plain_source):
    image = plain_source[0]["image"]
    source = MemorySource([record(image, ["a"]), record(image, ["b", None]) | {"key": "second"}])
    (batch,) = evaluation_batches(source, (4, 4), 2)
    assert batch["key"] == [None, "second"]
    assert batch["captions"] == [["a"], ["b"]] and batch["stored_captions"] == [["a"], ["b", ""]]


def test_evaluation_of_nothing_readable_is_an_error():
    source = MemorySource([record(b"broken", [])] * 3)
    with pytest.raises(UserError, match="none of the 3 images"):
        list(evaluation_batches(source, (4, 4), 2))


def test_reading_stops_with_the_reader():
    before = threading.active_count()  # others in this process may have left theirs
    batches = stream(threads=3).batches()
    next(batches)
    batches.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_memory_does_not_grow_with_the_data_set():
    batches = stream(64, sizes={"": 2_000_000_000}, threads=1).batches()
    tracemalloc.start()
    (batch,) = take(batches, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    batches.close()
    assert len(set(batch["index"].tolist())) == 64 and batch["index"].max() > 1_000_000_000
    assert peak < 5_000_000  # bytes
