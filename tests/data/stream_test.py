import itertools
import threading
import tracemalloc

import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.data.examples import BatchMaker
from coca_jax.data.sources import tfds_source
from coca_jax.data.stream import (
    TrainStream,
    evaluation_batches,
    make_tokenizer_from,
    make_train_stream,
)
from coca_jax.data.tokenizers import ByteTokenizer
from coca_jax.errors import UserError

SIZE = 10


def draw(indices, rngs):
    return {
        "index": np.array(indices, np.int32),
        "draw": np.array([rng.integers(1 << 30) for rng in rngs], np.int32),
    }


def stream(batch_size=4, seed=0, make_batch=draw, **options):
    return TrainStream(SIZE, make_batch, batch_size=batch_size, seed=seed, **options)


def take(batches, count):
    return list(itertools.islice(batches, count))


def flat(batches, key="index"):
    return np.concatenate([batch[key] for batch in batches]).tolist()


@pytest.fixture(scope="module")
def examples():
    """The first 60 examples, one after the other: what every other way to get them must give."""
    batches = take(stream(batch_size=1, threads=1).batches(), 60)
    return list(zip(flat(batches), flat(batches, "draw"), strict=True))


def test_every_epoch_has_all_records_in_another_order(examples):
    indices = [index for index, _ in examples]
    epochs = [indices[start : start + SIZE] for start in range(0, 60, SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_records_are_drawn_anew_each_time(examples):
    assert len({drawn for _, drawn in examples}) == 60


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("seen", [0, 8, 13])
def test_global_batch_does_not_depend_on_processes_or_restarts(examples, processes, seen):
    streams = [
        stream(process_index=process, process_count=processes, threads=1 + process).batches(seen)
        for process in range(processes)
    ]
    for start in range(seen, seen + 40, 4):
        batches = [next(batches) for batches in streams]
        assert all(len(batch["index"]) == 4 // processes for batch in batches)
        rows = zip(flat(batches), flat(batches, "draw"), strict=True)
        assert list(rows) == examples[start : start + 4]


def test_the_seed_changes_the_order(examples):
    assert flat(take(stream(seed=1).batches(), 5)) != [index for index, _ in examples[:20]]


def test_a_batch_may_be_larger_than_the_data_set():
    (batch,) = take(stream(batch_size=25).batches(), 1)
    assert sorted(batch["index"][:20].tolist()) == sorted([*range(SIZE), *range(SIZE)])


def test_indivisible_batches_are_an_error():
    with pytest.raises(UserError, match="batch size 4 is not divisible by the 3 processes"):
        stream(process_count=3)


def test_errors_reach_the_reader():
    def fail(indices, rngs):
        raise UserError("the data set is bad")

    with pytest.raises(UserError, match="the data set is bad"):
        next(stream(make_batch=fail).batches())


def test_bad_records_do_not_change_the_others(plain_source):
    broken = list(plain_source)
    broken[3] = {"image": b"", "captions": ["broken"], "label": 3}
    rows = []
    for source in (plain_source, broken):
        make = BatchMaker(source, ByteTokenizer(), image_size=(8, 8), text_length=16)
        batches = TrainStream(len(source), make, batch_size=8, seed=0).batches()
        rows.append(take(batches, 3))  # one epoch
    good, bad = ({key: np.concatenate([b[key] for b in r]) for key in r[0]} for r in rows)
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
    source = [r | {"image": b"broken"} if r["label"] in bad else r for r in plain_source]
    batches = list(evaluation_batches(source, (4, 4), 5))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [
        i for i in range(24) if i not in bad
    ]
    assert [len(batch["label"]) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    assert sum(batch["bad_image"] for batch in batches) == len(bad)


def test_evaluation_of_nothing_readable_is_an_error():
    source = [{"image": b"broken", "captions": [], "label": 0}] * 3
    with pytest.raises(UserError, match="none of the 3 images"):
        list(evaluation_batches(source, (4, 4), 2))


def test_the_stream_of_a_config(prepared):
    data = ConfigDict(
        {
            "dir": prepared,
            "threads": 2,
            "tokenizer": {"kind": "sentencepiece", "path": ""},
            "train": {
                "name": "shapes",
                "split": "train",
                "captions": "first",
                "min_crop_area": 1.0,
                "flip": False,
            },
        }
    )
    batches = make_train_stream(data, image_size=(32, 32), text_length=64, batch_size=60, seed=0)
    batch = next(batches.batches())
    assert batch["image"].shape == (60, 32, 32, 3) and batch["image"].dtype == np.uint8
    assert batch["text"].shape == (60, 64) and batch["text"].dtype == np.int32
    source = tfds_source("shapes", "train", prepared)
    captions = sorted(source[i]["captions"][0] for i in range(60))
    assert sorted(make_tokenizer_from(data).decode(batch["text"])) == captions


def test_reading_stops_with_the_reader():
    batches = stream(threads=3).batches()
    next(batches)
    batches.close()
    assert threading.active_count() < 20


def test_memory_does_not_grow_with_the_data_set():
    batches = TrainStream(2_000_000_000, draw, batch_size=64, seed=0, threads=1).batches()
    tracemalloc.start()
    (batch,) = take(batches, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    batches.close()
    assert len(set(batch["index"].tolist())) == 64 and batch["index"].max() > 1_000_000_000
    assert peak < 5_000_000  # bytes
