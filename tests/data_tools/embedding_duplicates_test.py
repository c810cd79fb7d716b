import broken_data
import numpy as np
import pytest

from coca_jax.batch_inference import Output, data_options, split
from coca_jax.config import default_config
from coca_jax.data.exclude_list import read_list
from coca_jax.data.sources import open_source
from coca_jax.data_tools.embedding_duplicates import deduplicate_by_embeddings
from coca_jax.errors import UserError


def unit(rng, count):
    vectors = rng.normal(size=(count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def embed(folder, tar, vectors, without=(), model="m", most=100):
    """Writes embeddings of the records of a tar."""
    output = Output(str(folder), "parquet", {"command": "embed", "model": model})
    output.open()
    for part in split(open_source(data_options(str(tar))), most):
        index = [i for i in range(part.first, part.first + part.count) if i not in without]
        ids = {"key": [str(i) for i in index], "source": ["x"] * len(index), "index": index}
        output.write(part, ids | {"embedding": vectors[index]}, [])


@pytest.fixture
def sets(tmp_path):
    """Training records 2, 5 and 8 are close to the references 0, 1 and 2; 5 has no embedding.

    The references 0 and 1 are in a shard, and 2 is the second record of another.
    """
    for name, count in (("train", 9), ("test", 2), ("more", 2)):
        broken_data.write_tar(tmp_path / f"{name}.tar", [{"jpg": b"i", "txt": b"t"}] * count)
    rng = np.random.default_rng(0)
    train, test = unit(rng, 9), unit(rng, 3)
    train[[2, 5, 8]] = test + 0.01 * rng.normal(size=test.shape)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    embed(tmp_path / "train", tmp_path / "train.tar", train, without=(5,), most=4)
    embed(tmp_path / "test", tmp_path / "test.tar", test)
    embed(tmp_path / "test", tmp_path / "more.tar", np.stack([-test[2], test[2]]))
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "train.tar")})
    return data, str(tmp_path / "train"), [str(tmp_path / "test")]


def test_similar_images_are_listed(sets, tmp_path):
    data, train, references = sets
    said = deduplicate_by_embeddings(data, "", train, references, 0.95, tmp_path / "list.tsv")
    assert said.startswith("2 of 9 training images have a similarity of at least 0.95")
    assert "1 have no embedding" in said
    np.testing.assert_array_equal(read_list(tmp_path / "list.tsv", 9), [2, 8])
    rows = [line.split("\t") for line in (tmp_path / "list.tsv").read_text().splitlines()[2:]]
    assert [row[1:4] for row in rows] == [
        [references[0], "test.tar", "0"],
        [references[0], "more.tar", "1"],
    ]


def test_a_distance_is_not_negative(sets, tmp_path):
    data, train, _ = sets
    said = deduplicate_by_embeddings(data, "", train, [train], 0.95, tmp_path / "list.tsv")
    assert said.startswith("8 of 9")
    rows = [line.split("\t") for line in (tmp_path / "list.tsv").read_text().splitlines()[1:]]
    assert rows[0] == ["record", "set", "set_shard", "set_record", "distance"]
    assert [row[2:] for row in rows[1:]] == [["train.tar", row[0], "0.0"] for row in rows[1:]]


def test_embeddings_that_do_not_go_together_are_refused(sets, tmp_path):
    data, train, references = sets
    embed(tmp_path / "other", tmp_path / "more.tar", np.eye(16, dtype=np.float32), model="n")
    with pytest.raises(UserError, match="different models"):
        deduplicate_by_embeddings(data, "", train, [str(tmp_path / "other")], 0.9, tmp_path / "l")
    with pytest.raises(UserError, match=r"has embeddings of no record of config.data.train"):
        deduplicate_by_embeddings(data, "", *references, references, 0.9, tmp_path / "l")
    with pytest.raises(UserError, match="is a folder; it should be a file"):
        deduplicate_by_embeddings(data, "", train, references, 0.9, tmp_path)
    with pytest.raises(UserError, match=r"'more' is not in config.data.sources"):
        deduplicate_by_embeddings(data, "more", train, references, 0.9, tmp_path / "l")
