"""The whole data layer on data that are deliberately broken."""

import broken_data
import numpy as np
import pytest

from coca_jax.config import default_config
from coca_jax.data.errors import ERROR_KINDS
from coca_jax.data.from_config import make_train_stream
from coca_jax.data.pipeline import evaluation_batches
from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.io.files import forget

BATCH = 16


def stream(path, tmp_path, **options):
    data = default_config().data
    data.train.update({"format": "webdataset", "path": path, "captions": "all"})
    data.tokenizer.kind = "byte"
    data.cache_dir = str(tmp_path / "cache")
    options = {"image_size": (8, 8), "text_length": 24, "batch_size": BATCH, "seed": 0} | options
    return make_train_stream(data, **options)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shards").mkdir()
    return tmp_path / "shards"


def test_each_fault_is_counted_as_what_it_is(folder, tmp_path):
    path = broken_data.write(folder)
    kinds = [kind for _, kind in broken_data.broken().values()]
    made = stream(str(folder / "broken.tar"), tmp_path, batch_size=1)
    assert made.mixture.size == len(kinds) + len(broken_data.odd())
    seen = {}
    for index in range(made.mixture.size):
        position = next(p for p in range(100) if made.mixture[p].index == index)
        batch = next(made.batches(position))
        seen[index] = {kind for kind in ERROR_KINDS if batch[kind][0]}
    for index, kind in enumerate(kinds):
        assert kind in seen[index], list(broken_data.broken())[index]
    for index in range(len(kinds), made.mixture.size):
        assert not seen[index]
    whole = open_source(SourceConfig(format="webdataset", path=path))
    assert len(whole) == made.mixture.size + broken_data.GOOD + broken_data.ENTIRE + 4


def test_the_stream_goes_on_and_is_the_same_each_time(folder, tmp_path):
    path = broken_data.write(folder)
    made = stream(path, tmp_path)
    (folder / "gone.tar").unlink()
    epochs = []
    for _ in range(2):
        batches = made.batches()
        epochs.append([next(batches) for _ in range(8)])
        batches.close()
    for first, again in zip(*epochs, strict=True):
        assert first.keys() == again.keys()
        assert all((first[key] == again[key]).all() for key in first)
    counts = {kind: sum(int(batch[kind].sum()) for batch in epochs[0]) for kind in ERROR_KINDS}
    assert counts["bad_record"] >= 2 * 4 and counts["bad_image"] >= 6 and counts["bad_text"] >= 6
    assert counts["filtered_length"] >= 2
    names = made.worst_shards(2)
    assert "gone.tar" in names and "broken.tar" in names and "good.tar" not in names


def test_evaluation_leaves_out_and_counts_what_cannot_be_read(folder):
    broken_data.write(folder)
    source = open_source(SourceConfig(format="webdataset", path=str(folder / "{broken,gone}.tar")))
    (folder / "gone.tar").unlink()
    forget()
    (batch,) = evaluation_batches(source, (8, 8), 64)
    usable = ("no caption", "blank caption", "endless caption")
    assert len(batch["image"]) == len(usable) + len(broken_data.odd())
    assert batch["bad_image"] == len(source) - len(batch["image"])


def test_a_truncated_tar_is_noted_and_the_rest_of_it_used(folder, tmp_path):
    broken_data.write(folder)
    made = stream(str(folder / "truncated.tar"), tmp_path)
    assert made.mixture.size == broken_data.ENTIRE
    assert any("truncated.tar" in note.text for note in made.make_batch.data_sets[0].source.notes)
    batch = next(made.batches())
    assert all(not batch[kind].any() for kind in ERROR_KINDS)
    assert np.unique(batch["text"], axis=0).shape[0] == BATCH
