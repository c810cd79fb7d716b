import numpy as np
import pytest

from coca_jax.checkpoints.metadata import Saved
from coca_jax.data.sources.base import Shard
from coca_jax.errors import UserError
from coca_jax.train import data_changes
from coca_jax.train.data_changes import check_data, require_same_data, stored_steps

OLD = {"data.train": [Shard("0.tar", 10, 2, "a"), Shard("1.tar", 20, 3, "b")]}
NEW = {"data.train": OLD["data.train"][:1]}


def test_data_that_changed_are_refused_with_what_changed_and_how_to_go_on():
    with pytest.raises(UserError, match=r"(?s)since step 7 .*removed: 1.tar.*allow_changes=True"):
        check_data({"data": OLD}, 7, NEW, allow=False)


def test_allowed_changes_are_kept_with_those_before():
    before = [{"step": 3, "changes": ["config.data.train: added: 1.tar"]}]
    found = check_data({"data": OLD, "data_changes": before}, 7, NEW, allow=True)
    assert found == [*before, {"step": 7, "changes": ["config.data.train: removed: 1.tar"]}]
    assert check_data({"data": NEW, "data_changes": found}, 9, NEW, allow=False) == found


def test_a_checkpoint_without_a_fingerprint_is_gone_on_from():
    said = []
    assert check_data({}, 7, NEW, allow=False, say=said.append) == []
    assert "step 7 was saved without a fingerprint" in said[0]


@pytest.mark.parametrize(
    "digests, they", [([1, 2], "^process 1 reads"), ([1, 2, 1, 3], "^processes 1, 3 read")]
)
def test_all_processes_refuse_other_data_of_some(monkeypatch, digests, they):
    monkeypatch.setattr(data_changes.jax, "process_count", lambda: len(digests))
    other = np.array(digests, np.uint32)
    gather = data_changes.multihost_utils
    monkeypatch.setattr(gather, "process_allgather", lambda mine: other)
    with pytest.raises(UserError, match=rf"{they} other data than process 0.*2 shards"):
        require_same_data(OLD)
    monkeypatch.setattr(gather, "process_allgather", lambda mine: np.stack([mine, mine]))
    require_same_data(OLD)


def test_a_length_in_epochs_stays_that_of_the_run_where_data_changed():
    saved = Saved(7, {"data": OLD, "config": {"train": {"steps": 100}}})
    assert stored_steps(saved, NEW) == 100
    assert stored_steps(saved, OLD) is None and stored_steps(None, NEW) is None
    assert stored_steps(Saved(7, {"data": OLD, "config": 5}), NEW) is None
    later = Saved(9, saved.metadata | {"data": NEW, "data_changes": [{"step": 7}]})
    assert stored_steps(later, NEW) == 100
