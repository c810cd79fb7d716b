import pytest

from coca_jax.config import default_config
from coca_jax.data.checks import mistakes, unnamed


def found(**train):
    data = default_config().data
    data.train.update(train)
    return mistakes(data)


def test_the_defaults_are_right():
    assert found() == []


def test_each_mistake_is_named():
    assert found(format="webdataset", path="a.tar") == []
    assert "min_characters=9 should be at most" in found(min_characters=9, max_characters=8)[0]
    assert len(found(captions="x", template="{", prompts=("a",), min_crop_area=0.0)) == 4
    assert "color_jitter" in found(color_jitter=(1.0,))[0]
    assert "randaugment" in found(randaugment=(2, 31))[0]


def test_mistakes_in_a_mixture_name_its_data_set():
    data = default_config().data
    data.sources = {"a": {"captions": "all"}, "b": {"filters": (("x", "~", 1),)}}
    (wrong,) = mistakes(data)
    assert wrong.startswith("config.data.sources.b.filters: ('x', '~', 1) should be")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"format": "webdataset"}, "path='': format 'webdataset' needs a path"),
        ({"split": ""}, "split='': format 'tfds' needs a split"),
        ({"name": ""}, "name='': format 'tfds' needs a path or name"),
        ({"name": "", "path": "a"}, None),
        ({"format": "folder", "path": "a", "name": "", "split": ""}, None),
    ],
)
def test_data_that_are_to_be_read_are_named(train, message):
    data = default_config().data
    data.train.update(train)
    wrong = unnamed(data)
    assert len(wrong) == (message is not None)
    assert all(line.startswith(f"config.data.train.{message}") for line in wrong)
