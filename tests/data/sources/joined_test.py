import json
import pickle

import pyarrow
import pyarrow.parquet as pq
import pytest
from memory_source import MemorySource, record

from coca_jax.batch_inference import Output, split
from coca_jax.data.results import Results
from coca_jax.data.sources import Shard
from coca_jax.data.sources.joined import JoinedSource
from coca_jax.errors import UserError

COUNTS = (4, 3)


class Source(MemorySource):
    def __init__(self, checksum="c"):
        super().__init__([record(b"", [f"own {i}"], url=f"u{i}") for i in range(sum(COUNTS))])
        self.checksum = checksum

    def shards(self):
        return [Shard(f"{i}.tar", 5, count, self.checksum) for i, count in enumerate(COUNTS)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def results(folder, name, value, most=2, parts=slice(None), unusable=(1,)):
    """Results of a column for the records of a source, without those that are unusable."""
    output = Output(str(folder), "parquet", {"command": "caption"})
    output.open()
    for part in split(Source(), most)[parts]:
        numbers = [i for i in range(part.first, part.first + part.count) if i not in unusable]
        columns = {
            "key": [str(i) for i in numbers],
            "source": [part.shard.name] * len(numbers),
            "index": numbers,
            name: [value(part.shard.name, i) for i in numbers],
        }
        output.write(part, columns, [[i, "", "bad"] for i in unusable])
    return Results(str(folder))


def test_captions_replace_or_follow_the_records_own(tmp_path):
    made = results(tmp_path / "out", "caption", lambda shard, i: f"made {shard} {i}")
    joined = pickle.loads(pickle.dumps(JoinedSource(Source(), made)))
    assert [joined[i]["captions"] for i in (0, 1, 3, 4, 6)] == [
        ["made 0.tar 0"],
        ["own 1"],  # it has no result
        ["made 0.tar 3"],
        ["made 1.tar 0"],
        ["made 1.tar 2"],
    ]
    both = JoinedSource(Source(), made, keep_captions=True)
    assert both[4]["captions"] == ["own 4", "made 1.tar 0"] and both[1]["captions"] == ["own 1"]
    assert both[4]["fields"] == {"url": "u4"} and len(both) == 7


def test_columns_become_fields(tmp_path):
    scores = results(tmp_path / "s", "similarity", lambda shard, i: i / 4, unusable=())
    lists = results(tmp_path / "l", "tags", lambda shard, i: [shard, "x"], most=100)
    joined = JoinedSource(Source(), None, [scores, lists])
    assert joined[6]["fields"] == {"url": "u6", "similarity": 0.5, "tags": ["1.tar", "x"]}
    assert joined[1]["captions"] == ["own 1"] and "tags" not in joined[1]["fields"]


def test_shards_without_results_are_noted_and_changed_ones_have_none(tmp_path):
    made = results(tmp_path / "out", "caption", lambda *_: "made", most=10, parts=slice(1))
    joined = JoinedSource(Source(), made)
    (note,) = joined.notes
    assert note.count == 1 and "1 shard has no results: 1.tar" in note.text
    assert joined[5]["captions"] == ["own 5"]
    with pytest.raises(
        UserError, match=r"results of none of the 2 shards .*0.tar: they are of other"
    ):
        JoinedSource(Source("changed"), made)


def test_results_of_other_content_differ_in_their_fingerprint(tmp_path):
    first = results(tmp_path / "a", "caption", lambda *_: "made").part()
    longer = results(tmp_path / "b", "caption", lambda *_: "made much longer").part()
    again = results(tmp_path / "c", "caption", lambda *_: "made").part()
    assert first[1:] == again[1:] and first.checksum != longer.checksum


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing holds no results of .* coca embed or"):
        Results(str(tmp_path / "nothing"))
    results(tmp_path / "out", "caption", lambda *_: "made", most=10)
    (tmp_path / "out/0.parquet").unlink()
    with pytest.raises(UserError, match=r"0.parquet is missing"):
        Results(str(tmp_path / "out"))
    (tmp_path / "out/0.jsonl").touch()
    with pytest.raises(UserError, match=r"out was written with --format jsonl; .* from Parquet"):
        Results(str(tmp_path / "out"))
    (tmp_path / "out/_done/0.json").write_text(json.dumps({"shard": [1]}))
    with pytest.raises(UserError, match=r"0.json is not what coca caption writes"):
        Results(str(tmp_path / "out"))


def test_a_damaged_file_is_named(tmp_path):
    made = results(tmp_path / "out", "caption", lambda *_: "made", most=10)
    (tmp_path / "out/0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"0.parquet cannot be read as a Parquet file"):
        JoinedSource(Source(), made)[0]


def test_rows_of_other_writers_are_found_by_their_number(tmp_path):
    results(tmp_path / "out", "caption", lambda *_: "made", most=10)
    table = pq.read_table(tmp_path / "out/1.parquet")
    pq.write_table(table.append_column("more", pyarrow.array([1, 2])), tmp_path / "out/1.parquet")
    joined = JoinedSource(Source(), None, [Results(str(tmp_path / "out"))])
    assert joined[6]["fields"] == {"url": "u6", "caption": "made", "more": 2}


def test_results_without_captions_or_in_other_formats_are_refused(tmp_path):
    made = results(tmp_path / "out", "embedding", lambda *_: 1.0, most=10)
    (tmp_path / "out/_settings.json").write_text(json.dumps({"command": "embed"}))
    with pytest.raises(UserError, match="results of coca embed, and no captions"):
        JoinedSource(Source(), made)
    for path in (tmp_path / "out").glob("*.parquet"):
        path.rename(path.with_suffix(".npy"))
    with pytest.raises(UserError, match=r"holds .npy files"):
        JoinedSource(Source(), None, [Results(str(tmp_path / "out"))])


def test_results_without_a_column_to_join_are_refused(tmp_path):
    made = results(tmp_path / "out", "embedding", lambda *_: [1.0], most=10)
    with pytest.raises(UserError, match=r"out holds no column that can be a field, only key, sou"):
        JoinedSource(Source(), None, [made])


def test_one_note_names_all_folders_without_results(tmp_path):
    made = [
        results(tmp_path / name, name, lambda *_: 1, most=10, parts=parts)
        for name, parts in (("a", slice(1)), ("b", slice(1, 2)))
    ]
    (note,) = JoinedSource(Source(), None, made).notes
    assert note.count == 2
    for part in ("a: 1 shard has no results: 1.tar", "b: 1 shard has no results: 0.tar"):
        assert part in note.text
