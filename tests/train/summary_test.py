import types
from unittest import mock

import jax.numpy as jnp
import pytest

from coca_jax.config import default_config
from coca_jax.data.batch_sizes import BatchSizes
from coca_jax.data.pipeline import TrainStream
from coca_jax.data.sources import Note
from coca_jax.errors import UserError
from coca_jax.train.metric_accumulator import MetricAccumulator
from coca_jax.train.summary import _data

NOTES = [Note("links", 3, "3 members are links", lost=True), Note("hidden", 2, "2 are hidden")]


@pytest.mark.parametrize("names", [(), ("more", "web")])
def test_what_readers_noted_is_said_below_the_data(names):
    config = default_config()
    config.data.train.path = "a.tar"
    config.data.sources = {name: {"weight": 1.0} for name in names}
    parts = [types.SimpleNamespace(source=types.SimpleNamespace(notes=NOTES))] * max(1, len(names))
    stream = mock.Mock(spec=TrainStream)
    stream.batch_sizes = BatchSizes(10)
    stream.mixture = types.SimpleNamespace(size=1000)
    stream.make_batch = types.SimpleNamespace(data_sets=parts)
    first, *lines = _data(config, stream).split("\n")
    assert "1,000 examples" in first and ("more, web" in first or not names)
    prefixes = [f"{name}: " for name in names] or [""]
    assert [line.strip() for line in lines] == [p + note.text for p in prefixes for note in NOTES]


@pytest.mark.parametrize("left_out", [0, 7])
def test_what_readers_left_out_is_a_metric(left_out):
    meter = MetricAccumulator(lambda step: (8, 8), 0.2, 1.0, left_out=left_out)
    meter.add(1, {"loss": jnp.float32(1.0)})
    assert meter.read().get("train/left_out", 0) == left_out


def test_wrong_captions_that_no_pair_has_end_the_run():
    def read(meter, *shares):
        for share in shares:
            meter.add(1, {"loss": jnp.float32(1.0), "negative_share": jnp.float32(share)})
        return meter.read()["train/negative_share"]

    meters = [MetricAccumulator(lambda step: (512, 512), 0.2, 1.0) for _ in range(2)]
    assert [read(meter, 0.0) for meter in meters] == [0, 0]  # too few to tell
    with pytest.raises(UserError, match=r"of the first 1,024 pairs .*data\.train\.negatives"):
        read(meters[0], 0.0)
    assert read(meters[1], 0.1, 0.0) == 0
    assert read(meters[1], *[0.0] * 3) == 0  # there are some, though few
