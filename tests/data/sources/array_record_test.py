from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tf_examples import example, write_array_record

from coca_jax.data.sources import Source
from coca_jax.data.sources.array_record import array_record_source
from coca_jax.errors import UserError


@pytest.fixture
def shards(tmp_path):
    """Three files of 4, 0 and 3 records; record i has the image b"i"."""
    for shard, numbers in enumerate((range(4), (), range(4, 7))):
        records = [example({"image": [b"%d" % i], "caption": [b"picture %d" % i]}) for i in numbers]
        write_array_record(tmp_path / f"part-{shard:05}.array_record", records)
    return tmp_path


def test_records_of_all_files_in_order(shards):
    source = array_record_source(f"{shards}/part-{{00000..00002}}.array_record")
    assert isinstance(source, Source) and len(source) == 7 and source.class_names == []
    assert [source[i]["image"] for i in range(7)] == [b"%d" % i for i in range(7)]
    assert source[5]["captions"] == ["picture 5"] and source[5]["label"] == -1
    assert [source.shard(i)[-18:] for i in (0, 3, 4, 6)] == [
        f"{shard:05}.array_record" for shard in (0, 0, 2, 2)
    ]


def test_a_folder_of_files_and_a_split_of_it(shards):
    assert len(array_record_source(str(shards), "train")) == 7
    for split in ("test", "train"):
        write_array_record(
            shards / f"{split}.array_record-00000-of-00001", [example({"image": [split.encode()]})]
        )
    source = array_record_source(str(shards), "train")
    assert [source[0]["image"]] == [b"train"] and len(source) == 1
    assert [note.kind for note in source.notes] == ["split"]


def test_many_threads_read_it(shards):
    source = array_record_source([f"{shards}/part-*.array_record"])
    order = np.random.default_rng(0).integers(7, size=500).tolist()
    with ThreadPoolExecutor(8) as threads:
        images = [record["image"] for record in threads.map(source.__getitem__, order)]
    assert images == [b"%d" % i for i in order]


def test_what_is_no_array_record_is_named(shards):
    whole = (shards / "part-00000.array_record").read_bytes()
    (shards / "truncated.array_record").write_bytes(whole[: len(whole) // 2])
    (shards / "page.array_record").write_bytes(b"<html>" * 20_000)
    (shards / "empty.array_record").write_bytes(b"")
    for name in ("truncated", "page", "empty", "missing"):
        with pytest.raises(UserError, match=f"{name}.array_record cannot be read as an ArrayRec"):
            array_record_source(
                [f"{shards}/part-00000.array_record", f"{shards}/{name}.array_record"]
            )
    with pytest.raises(UserError, match=r"part-00001\.array_record hold no records"):
        array_record_source(f"{shards}/part-00001.array_record")
    with pytest.raises(UserError, match=r"memory://a.array_record.*gs:// only"):
        array_record_source("memory://a.array_record")


def test_a_damaged_record_harms_no_other(tmp_path):
    images = [np.random.default_rng(i).bytes(50_000) for i in range(4)]
    path = write_array_record(
        tmp_path / "a.array_record", [example({"image": [i]}) for i in images]
    )
    data = bytearray((tmp_path / "a.array_record").read_bytes())
    at = data.index(images[1][1000:1100])
    data[at : at + 100] = bytes(100)
    (tmp_path / "a.array_record").write_bytes(data)
    source = array_record_source(path)
    with pytest.raises(RuntimeError, match="hash mismatch"):
        source[1]
    assert [source[i]["image"] for i in (0, 2, 3)] == [images[i] for i in (0, 2, 3)]
