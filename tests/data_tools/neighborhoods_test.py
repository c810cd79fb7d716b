import broken_data
import numpy as np
import pytest
from data_tools.embedding_duplicates_test import embed, unit

from coca_jax import cli
from coca_jax.config import default_config
from coca_jax.data.neighborhoods import read_order
from coca_jax.data_tools.neighborhoods import LEAF, neighborhoods, write_neighborhoods
from coca_jax.errors import UserError


def test_rows_near_each_other_are_next_to_each_other():
    rng = np.random.default_rng(0)
    centers = unit(rng, 20)
    clusters = rng.permutation(np.repeat(np.arange(20), LEAF))
    order = neighborhoods(centers[clusters] + 0.01 * rng.normal(size=(160, 16)))
    assert sorted(order.tolist()) == list(range(160))
    leaves = clusters[order].reshape(-1, LEAF)
    assert (leaves == leaves[:, :1]).all(axis=1).mean() > 0.8  # 0 at random


def test_equal_rows_are_ordered_too():
    assert sorted(neighborhoods(np.ones((50, 3), np.float32)).tolist()) == list(range(50))


def test_records_without_an_embedding_come_last(tmp_path, capsys):
    broken_data.write_tar(tmp_path / "a.tar", [{"jpg": b"i", "txt": b"t"}] * 30)
    vectors = unit(np.random.default_rng(0), 30)
    embed(tmp_path / "embedded", tmp_path / "a.tar", vectors, without=(4, 9), most=12)
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "a.tar")})
    said = write_neighborhoods(data, "", str(tmp_path / "embedded"), tmp_path / "order.npy", 0)
    assert "30 training records" in said and "2 have none" in said
    assert said.endswith(f"--config.data.train.neighborhoods={tmp_path / 'order.npy'}")
    order = read_order(str(tmp_path / "order.npy"), 30)
    assert set(order[-2:].tolist()) == {4, 9}
    rest = [i for i in range(30) if i not in (4, 9)]
    np.testing.assert_array_equal(order[:-2], np.array(rest)[neighborhoods(vectors[rest])])
    with pytest.raises(UserError, match="is a folder; it should be a file"):
        write_neighborhoods(data, "", str(tmp_path / "embedded"), tmp_path, 0)
    broken_data.write_tar(tmp_path / "b.tar", [{"jpg": b"i", "txt": b"t"}] * 3)
    data.train.path = str(tmp_path / "b.tar")
    with pytest.raises(UserError, match=r"has embeddings of no record of config\.data\.train"):
        write_neighborhoods(data, "", str(tmp_path / "embedded"), tmp_path / "other.npy", 0)


def test_the_command_needs_embeddings(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "neighborhoods", "--config", "shapes", "out.npy"])
    assert caught.value.code == 2 and "--embeddings" in capsys.readouterr().err
