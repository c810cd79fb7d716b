import broken_data
import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.config import default_config
from coca_jax.data.from_config import make_train_stream
from coca_jax.data_tools.deduplicate import deduplicate
from coca_jax.errors import UserError


def photo(seed):
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC)


def sample(image, quality, name):
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return {"jpg": data, "txt": name.encode()}


@pytest.fixture
def sets(tmp_path):
    train = [sample(photo(seed), 95, f"picture {seed}") for seed in range(12)]
    test = [sample(cv2.resize(photo(seed), (64, 64)), 60, "test") for seed in (3, 7, 100)]
    broken_data.write_tar(tmp_path / "train.tar", train)
    broken_data.write_tar(tmp_path / "test.tar", test)
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "train.tar")})
    data.tokenizer.kind = "byte"
    test = {"format": "webdataset", "path": str(tmp_path / "test.tar")}
    return data, ConfigDict({"a": test | {"kind": "retrieval"}, "b": test | {"kind": "captioning"}})


def test_what_the_evaluations_show_is_never_trained_on(sets, tmp_path):
    data, evaluations = sets
    said = deduplicate(data, evaluations, "", 4, tmp_path / "list.tsv")
    assert said.startswith("2 of 12 training images") and "data.train.exclude_list=" in said
    data.train.exclude_list = str(tmp_path / "list.tsv")
    options = {"image_size": (8, 8), "text_length": 16, "batch_size": 12, "seed": 0}
    batch = next(make_train_stream(data, **options).batches())
    assert np.count_nonzero(batch["filtered_duplicate"]) == 2
    texts = {bytes(i - 3 for i in row if i >= 3).decode() for row in batch["text"].tolist()}
    assert texts == {f"picture {seed}" for seed in range(12) if seed not in (3, 7)}


def test_errors_are_named(sets, tmp_path):
    data, evaluations = sets
    with pytest.raises(UserError, match="is a folder; it should be a file"):
        deduplicate(data, evaluations, "", 4, tmp_path)
    with pytest.raises(UserError, match=r"'more' is not in config\.data\.sources"):
        deduplicate(data, evaluations, "more", 4, tmp_path / "list.tsv")
    with pytest.raises(UserError, match=r"config\.eval has no evaluation"):
        deduplicate(data, ConfigDict(), "", 4, tmp_path / "list.tsv")
    evaluations.b.path = str(tmp_path / "gone.tar")
    with pytest.raises(UserError, match=r"config\.eval\.b: .*gone\.tar"):
        deduplicate(data, evaluations, "", 4, tmp_path / "list.tsv")
    data.train.path = str(tmp_path / "gone.tar")
    with pytest.raises(UserError, match=r"config\.data\.train: .*gone\.tar"):
        deduplicate(data, ConfigDict({"a": evaluations.a}), "", 4, tmp_path / "list.tsv")
