import numpy as np
import pytest

from coca_jax.data.mixture import Mixture
from coca_jax.data.neighborhoods import NeighborhoodOrder, read_order, write_order
from coca_jax.errors import UserError

ORDER = np.random.default_rng(0).permutation(22)


def epochs(seed=3, count=3):
    order = NeighborhoodOrder(ORDER, 4, seed)
    return np.array([order[i] for i in range(count * len(ORDER))]).reshape(count, -1)


def test_every_epoch_has_every_record_once_in_another_order():
    drawn = epochs()
    for epoch in drawn:
        assert sorted(epoch) == list(range(22))
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn, epochs(seed=4))
    np.testing.assert_array_equal(drawn, epochs())


def test_neighbors_are_drawn_together():
    place = np.empty(22, int)
    place[ORDER] = np.arange(22)
    for epoch in epochs():
        for block in epoch[:20].reshape(5, 4):
            np.testing.assert_array_equal(np.diff(place[block]) % 22, 1)
    firsts = {int(place[epoch[0]]) % 4 for epoch in epochs(count=12)}
    assert len(firsts) > 1  # neighborhoods do not begin at the same records in every epoch


def test_a_mixture_draws_neighbors_of_one_of_its_data_sets():
    mixture = Mixture({"a": 22, "b": 50}, {"a": 1.0, "b": 1.0}, 0, {"a": (ORDER, 4)})
    refs = [mixture[i] for i in range(400)]
    drawn = [ref.index for ref in refs if ref.source == 0]
    for epoch in np.array(drawn[: len(drawn) // 22 * 22]).reshape(-1, 22):
        assert sorted(epoch) == list(range(22))
    place = np.empty(22, int)
    place[ORDER] = np.arange(22)
    np.testing.assert_array_equal(np.diff(place[drawn[:4]]) % 22, 1)


def test_an_order_is_read_as_it_was_written(tmp_path):
    write_order(tmp_path / "order.npy", ORDER)
    np.testing.assert_array_equal(read_order(str(tmp_path / "order.npy"), 22), ORDER)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (ORDER[:-1], "holds int64 of shape (21,), but the data set has 22 records; `coca data"),
        (ORDER.astype(float), "holds float64 of shape (22,)"),
        (np.where(ORDER == 5, 6, ORDER), "lacks the record 5, and has another twice"),
        (ORDER + 1, "has the record 22, and the data set has 22"),
        (ORDER - 1, "has the record -1, and the data set has 22"),
    ],
)
def test_what_is_no_order_of_the_records_is_refused(order, message, tmp_path):
    np.save(tmp_path / "order.npy", order)
    with pytest.raises(UserError) as caught:
        read_order(str(tmp_path / "order.npy"), 22)
    assert message in str(caught.value)


def test_what_is_no_file_of_numbers_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no order can be read from .*nowhere\.npy"):
        read_order(str(tmp_path / "nowhere.npy"), 22)
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "zip.npy").write_bytes(b"PK\3\4 no archive")
    np.savez(tmp_path / "several.npz", ORDER)
    for name in ("text.npy", "empty.npy", "zip.npy", "several.npz"):
        with pytest.raises(UserError, match=r"is not a \.npy file"):
            read_order(str(tmp_path / name), 22)
