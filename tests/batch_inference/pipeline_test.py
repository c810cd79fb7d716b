import json
import os
import threading

import cv2
import fsspec
import gcsfs
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import stores
from memory_source import MemorySource

from coca_jax.batch_inference import Output, run, split
from coca_jax.data.errors import BadExample
from coca_jax.data.results import Results
from coca_jax.data.sources import Shard
from coca_jax.errors import Preempted, UserError

SIZE = (8, 8)
COUNTS = (5, 3, 4)


def image(value):
    return cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1].tobytes()


def record(i):
    if i in (1, 8, 9, 10, 11):  # the last shard has nothing else
        content = b"no image"
    elif i == 6:
        content = BadExample("bad_record", "no JSON")
    else:
        content = image(10 * i)
    fields = {"number": i, "caption": "a field"} | {"odd": [i] if i % 4 == 1 else "text"}
    return {"image": content, "captions": [f"{i}"], "label": -1, "labels": [], "fields": fields}


class Source(MemorySource):
    def __init__(self, checksum="c"):
        super().__init__([record(i) for i in range(sum(COUNTS))])
        self.checksum = checksum
        self.reads = 0

    def __getitem__(self, index):
        self.reads += 1
        found = super().__getitem__(index)
        if isinstance(found["image"], Exception):
            raise found["image"]
        return found

    def shards(self):
        return [Shard(f"{i}.tar", 9, count, self.checksum) for i, count in enumerate(COUNTS)]


class MeanTask:
    """The mean of an image's pixels, which tells images apart."""

    name, options = "caption", {}
    columns = {"caption": pyarrow.string(), "log_probability": pyarrow.float32()}  # noqa: RUF012

    def __init__(self):
        self.batches = []

    def why_unusable(self, record):
        return "three" if record["captions"] == ["3"] else ""

    def __call__(self, pixels, records, place):
        self.batches.append((place, len(records)))
        return {
            "caption": [f"{p.mean():g}" for p in pixels],
            "log_probability": [0.5] * len(pixels),
        }


def output(folder, file_format="parquet", **settings):
    result = Output(str(folder), file_format, {"model": "m", **settings}, MeanTask.columns)
    result.open()
    return result


def compute(folder, source=None, parts=slice(None), **options):
    source, task = source or Source(), MeanTask()
    summary = run(
        source, split(source, 100)[parts], task, output(folder), SIZE, batch_size=2, **options
    )
    return summary, task


def contents(folder):
    names = sorted(os.listdir(folder) + [f"_done/{name}" for name in os.listdir(folder / "_done")])
    return {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}


def test_results_follow_the_records_and_bad_ones_are_listed(tmp_path, capsys):
    summary, task = compute(tmp_path, keep=True)
    assert summary == (3, 5, 7)
    assert sorted(task.batches) == [
        ("0.tar:0", 2),
        ("0.tar:4", 1),
        ("1.tar:0", 2),
    ]  # none crosses shards
    table = pq.read_table(tmp_path / "0.parquet").to_pydict()
    assert table == {
        "key": ["000000000", "000000002", "000000004"],
        "source": ["0.tar"] * 3,
        "index": [0, 2, 4],
        "caption": ["0", "20", "40"],
        "log_probability": [0.5] * 3,
        "stored": [
            json.dumps({"captions": [f"{i}"], "number": i, "caption": "a field", "odd": "text"})
            for i in (0, 2, 4)
        ],
    }
    schemas = [pq.read_schema(tmp_path / f"{i}.parquet") for i in range(3)]  # the last has no rows
    assert schemas[0] == schemas[1] == schemas[2]
    assert pq.read_table(tmp_path).num_rows == 5
    bad = json.loads((tmp_path / "_done/0.json").read_bytes())["bad"]
    assert [row[:2] for row in bad] == [[1, "000000001"], [3, "000000003"]]
    assert bad[1][2] == "three"
    shown = capsys.readouterr().err
    assert "1.tar, record 1 (000000001): bad_record (no JSON)" in shown
    assert "3 of 3 files (2.tar: 0 results, 4 unusable records" in shown


def test_the_number_of_a_class_without_a_name_is_kept(tmp_path):
    source = Source()
    source[0] |= {"label": 3}
    source[2] |= {"label": 3, "labels": ["cat"]}
    compute(tmp_path, source, keep=True)
    first, second, _ = map(json.loads, pq.read_table(tmp_path / "0.parquet")["stored"].to_pylist())
    assert first["label"] == 3 and "labels" not in first
    assert second["labels"] == ["cat"] and "label" not in second


def test_what_is_stored_is_json_with_the_captions(tmp_path):
    source, nan = Source(), float("nan")
    fields = {"captions": "others", "label": "b", "labels": nan, "sizes": [-np.inf, {"a": nan}]}
    source[0] |= {"fields": fields}
    source[2] |= {"fields": fields, "labels": ["cat"]}
    compute(tmp_path, source, keep=True)
    stored = pq.read_table(tmp_path / "0.parquet")["stored"].to_pylist()[:2]
    assert "NaN" not in "".join(stored)
    first = {"captions": ["0"], "label": "b", "labels": None, "sizes": [None, {"a": None}]}
    assert json.loads(stored[0]) == first
    assert json.loads(stored[1]) == first | {"captions": ["2"], "labels": ["cat"]}


def test_a_run_goes_on_where_it_was_stopped_with_equal_files(tmp_path):
    compute(tmp_path / "whole")
    stops = iter([False, True])
    with pytest.raises(Preempted, match="stopped with 1 of 3 files written"):
        compute(tmp_path / "parts", should_stop=lambda: next(stops))
    source = Source()
    summary, _ = compute(tmp_path / "parts", source)
    assert summary == (3, 5, 7) and source.reads == 7  # of the last two shards
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_task_is_given_the_place_of_its_first_record(tmp_path):
    source, task = Source(), MeanTask()
    run(source, split(source, 3), task, output(tmp_path), SIZE, batch_size=2)
    # The first shard has two parts, 0 to 1 and 2 to 4; records 1, 3 and 6 are bad.
    assert sorted(task.batches) == [("0.tar:0", 1), ("0.tar:2", 2), ("1.tar:0", 2)]
    assert sorted(p.name for p in tmp_path.glob("*.parquet"))[0] == "0-00000-of-00002.parquet"


def test_shards_are_shared_between_processes(tmp_path):
    compute(tmp_path / "whole")
    for k in range(2):
        summary, _ = compute(tmp_path / "shared", parts=slice(k, None, 2))
    assert summary.parts == 1
    assert compute(tmp_path / "shared", parts=slice(0, 0))[0] == (0, 0, 0)
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


def test_a_file_or_its_record_that_is_missing_is_made_again(tmp_path):
    compute(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "_done/1.json").write_bytes(b"{")
    (tmp_path / "0.parquet").write_bytes(b"cut")
    (tmp_path / "_done/0.json").unlink()
    (tmp_path / "2.parquet").unlink()
    compute(tmp_path)
    assert contents(tmp_path) == before
    for name in before:
        if name[0] != "_":
            (tmp_path / name).write_bytes(b"cut")
    assert compute(tmp_path, source := Source())[0] == (3, 5, 7)
    assert source.reads == sum(COUNTS) and contents(tmp_path) == before


def test_both_files_of_an_array_are_made_again(tmp_path):
    for damage in (lambda path: None, os.unlink, lambda path: path.write_bytes(b"")):
        for ending in ("npy", "ids.jsonl"):
            written = write_array(tmp_path)
            before = contents(tmp_path)
            damage(tmp_path / f"0.{ending}")
            assert len(written.done(split(Source(), 100))) == (contents(tmp_path) == before)


def write_array(folder):
    """The embeddings of the first shard, written unless they are there."""
    result = Output(str(folder), "npy", {"model": "m"})
    result.open()
    part = split(Source(), 100)[0]
    if not result.done([part]):
        ids = {"key": ["a"], "source": ["0.tar"], "index": [0]}
        result.write(part, ids | {"embedding": np.ones((1, 2), np.float32)}, [])
    return result


def test_results_of_an_earlier_version_stay(tmp_path):
    compute(tmp_path)
    for path in (tmp_path / "_done").iterdir():
        content = json.loads(path.read_bytes())
        del content["settings"], content["sizes"]
        path.write_text(json.dumps(content))
    source = Source()
    (tmp_path / "2.parquet").unlink()
    assert compute(tmp_path, source)[0] == (3, 5, 7) and source.reads == COUNTS[2]
    assert len(Results(str(tmp_path)).all_pieces()) == 3


def test_commands_with_other_settings_at_the_same_time_are_refused(tmp_path, monkeypatch):
    first, source = output(tmp_path, beams=1), Source()
    second, parts = output(tmp_path, beams=2), split(source, 100)
    with pytest.raises(UserError, match=r"another command writes to .*\n  beams: 2, now 1"):
        run(source, parts, MeanTask(), first, SIZE)
    assert not list(tmp_path.glob("*.parquet"))
    run(source, parts[:1], MeanTask(), second, SIZE)
    # Both may look at the settings, and then write.
    monkeypatch.setattr(Output, "_require_own", lambda self: None)
    run(source, parts[1:], MeanTask(), first, SIZE)
    with pytest.raises(UserError, match=r"1.parquet has results of another command.*1\.json"):
        second.done(parts)
    with pytest.raises(UserError, match=r"different settings, such as 0.json and 1.json"):
        Results(str(tmp_path))


def test_other_settings_and_other_data_are_refused(tmp_path):
    compute(tmp_path)
    with pytest.raises(UserError, match=r"(?s)other settings.*model: 'm', now 'n'"):
        output(tmp_path, model="n")
    with pytest.raises(UserError, match="format: 'parquet', now 'jsonl'"):
        output(tmp_path, "jsonl")
    with pytest.raises(
        UserError, match=r"0.tar .*checksum c.* is now .*checksum d.*remove .*0.json"
    ):
        compute(tmp_path, Source("d"))
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"holds 'photo.jpg' and no _settings"):
        output(strange)


def test_settings_of_a_folder_without_results_may_change(tmp_path):
    output(tmp_path, beams=0)
    output(tmp_path, beams=2)
    compute(tmp_path / "done")
    with pytest.raises(UserError, match="beams: None, now 2"):
        output(tmp_path / "done", beams=2)


@pytest.mark.parametrize(
    "error",
    [OSError("no answer"), MemoryError(), FileNotFoundError("the tar"), gcsfs.retry.HttpError({})],
)
def test_an_outage_is_no_fault_of_the_records(tmp_path, error):
    compute(tmp_path / "whole")
    source = Source()
    source[7] = {"image": error}
    with pytest.raises(type(error)):
        compute(tmp_path / "out", source)
    assert not (tmp_path / "out/_done/1.json").exists()
    compute(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_missing_image_of_a_shard_that_is_there_is_a_bad_record(tmp_path):
    source = Source()
    source[7] = {"image": FileNotFoundError("photo.jpg")}
    source.shard = lambda index: str(tmp_path)
    assert compute(tmp_path / "out", source)[0] == (3, 4, 8)


def test_names_that_are_no_utf8_are_escaped(tmp_path):
    source = Source()
    source[0] = {**source[0], "key": "caf\udce9"}
    source.shards = lambda: [Shard("b\udce9.tar", 9, 12, "c")]
    compute(tmp_path, source)
    rows = pq.read_table(tmp_path).to_pylist()
    assert (rows[0]["key"], rows[0]["source"]) == ("caf\\udce9", "b\\udce9.tar")


def test_a_stop_is_obeyed_among_bad_records(tmp_path):
    asked = []
    compute(tmp_path, should_stop=lambda: asked.append(1))
    assert len(asked) == 5  # two batches, one, and two of the last shard's four bad records


def test_results_of_shards_that_are_gone_are_named(tmp_path):
    compute(tmp_path)
    assert output(tmp_path).surplus(split(Source(), 100)[:2]) == ["2"]


def test_an_error_of_the_model_or_the_disk_ends_the_run(tmp_path, monkeypatch):
    class Failing(MeanTask):
        def __call__(self, pixels, records, place):
            raise MemoryError("no memory")

    source = Source()
    with pytest.raises(MemoryError):
        run(source, split(source, 100), Failing(), output(tmp_path / "a"), SIZE)
    full = output(tmp_path / "b")
    (tmp_path / "b/_done").write_bytes(b"")  # a file where a folder should be
    with pytest.raises(OSError):
        run(source, split(source, 100), MeanTask(), full, SIZE)
    assert not [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name]


def test_results_in_an_object_store(tmp_path):
    compute(tmp_path)
    with stores.gcs_store():
        folder = f"gs://{stores.BUCKET}/results"
        compute(folder, parts=slice(0, 2))
        source = Source()
        summary, _ = compute(folder, source)
        assert summary == (3, 5, 7) and source.reads == 4  # of the last shard
        store = fsspec.filesystem("gs")
        names = [name.partition("results/")[2] for name in store.find(folder)]
        assert {n: store.cat_file(f"{folder}/{n}") for n in names} == contents(tmp_path)
