import json
import math

import numpy as np
import pytest

from coca_jax.batch_inference import Output
from coca_jax.batch_inference.data import Part
from coca_jax.data.sources import Shard
from coca_jax.errors import UserError
from coca_jax.image_search import stored_embeddings
from coca_jax.image_search.stored_embeddings import Match, StoredEmbeddings


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def on_circle(degrees):
    angles = np.deg2rad(np.asarray(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def embed(folder, name, degrees, file_format="parquet", model="m", dtype="float32"):
    """Writes embeddings of a shard whose record 1 has none."""
    output = Output(str(folder), file_format, {"command": "embed", "model": model})
    output.open()
    count = len(degrees) + 1
    index = [i for i in range(count) if i != 1] if degrees else []
    columns = {
        "key": [f"{name}{i}" for i in index],
        "source": [f"{name}.tar"] * len(index),
        "index": index,
    }
    columns["embedding"] = on_circle(degrees).astype(dtype) if degrees else []
    part = Part(name, Shard(f"{name}.tar", 1, count, ""), 0, count, 0)
    output.write(part, columns, [[1, "", "bad"]])


def found(folders, degrees, top=2, by="exact", model="m"):
    stored = StoredEmbeddings([str(f) for f in folders], model)
    return stored.search(on_circle(degrees), top, by)


@pytest.mark.parametrize("by", ["exact", "faiss"])
@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_the_most_similar_records_of_all_folders(tmp_path, by, file_format):
    if by == "faiss":
        pytest.importorskip("faiss")
    a, b = tmp_path / "a", tmp_path / "b"
    embed(a, "x", [0, 90, 180], file_format)
    embed(a, "empty", [], file_format)
    embed(b, "y", [50, 270], file_format, dtype="float16")
    matches = found([a, b], 60, by=by)
    assert [match[1:] for match in matches] == [
        (str(b), "y0", "y.tar", 0),
        (str(a), "x2", "x.tar", 2),
    ]
    cosines = [math.cos(math.radians(10)), math.cos(math.radians(30))]
    np.testing.assert_allclose([m.similarity for m in matches], cosines, atol=1e-3)
    assert isinstance(matches[0], Match)


def test_the_table_is_made_once_and_again_when_folders_change(tmp_path):
    folder, reads = tmp_path / "a", []
    embed(folder, "x", [0, 90])
    for _ in range(2):
        StoredEmbeddings([str(folder)], "m", lambda pieces: reads.append(len(pieces)) or pieces)
    assert reads == [1]
    before = StoredEmbeddings([str(folder)], "m")
    embed(folder, "y", [45])
    assert found([folder, folder], 45)[0].key == "y0"
    assert before.search(on_circle(45), 1)[0].key == "x0"  # its table is still there
    for name in ("y.parquet", "_done/y.json"):
        (folder / name).unlink()
    assert found([folder], 45)[0].key == "x0"
    (table,) = (tmp_path / "cache/coca_jax/search/embeddings").glob("*/*.f32")
    table.write_bytes(b"cut")
    assert found([folder], 90)[0].key == "x2"


def test_faiss_does_not_find_by_a_file_of_other_embeddings(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    embed(tmp_path / "a", "x", [0, 90])
    assert found([tmp_path / "a"], 80, by="faiss")[0].key == "x2"
    embed(tmp_path / "a", "x", [80, 10])
    with monkeypatch.context() as patch:  # a process ends before it has cleaned up
        patch.setattr(stored_embeddings, "forget", lambda folder: {}[folder])
        with pytest.raises(KeyError):
            StoredEmbeddings([str(tmp_path / "a")], "m")
    assert found([tmp_path / "a"], 80, by="faiss")[0].key == "x0"


def test_embeddings_of_another_model_and_other_results_are_refused(tmp_path):
    embed(tmp_path / "a", "x", [0])
    with pytest.raises(UserError, match=r"a holds embeddings of another model \(m\) than this"):
        found([tmp_path / "a"], 0, model="n")
    settings = tmp_path / "a/_settings.json"
    settings.write_text(json.dumps({"command": "caption", "model": "m"}))
    with pytest.raises(UserError, match="a holds no embeddings; coca embed makes them"):
        found([tmp_path / "a"], 0)
    settings.unlink()
    with pytest.raises(UserError, match=r"_settings.json cannot be read"):
        found([tmp_path / "a"], 0)
