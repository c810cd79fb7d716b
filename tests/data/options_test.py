import pytest

from coca_jax.config import default_config
from coca_jax.data.options import data_errors, missing_options


def found(**train):
    data = default_config().data
    data.train.update(train)
    return data_errors(data)


def test_the_defaults_are_right():
    assert found() == []


def test_each_error_is_named():
    assert found(format="webdataset", path="a.tar") == []
    assert "min_characters=9 should be at most" in found(min_characters=9, max_characters=8)[0]
    assert "template='a' is for captions" in found(captions="none", template="a")[0]


def test_errors_in_a_mixture_name_its_data_set():
    data = default_config().data
    data.sources = {"a": {"captions": "all"}, "b": {"max_characters": 0}}
    (error,) = data_errors(data)
    assert error.startswith("config.data.sources.b.min_characters=1 should be at most")


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
    wrong = missing_options(data)
    assert len(wrong) == (message is not None)
    assert all(line.startswith(f"config.data.train.{message}") for line in wrong)
