import itertools

import numpy as np
import pytest

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data.transforms.images import decode
from coca_jax.datasets import shapes_pages
from coca_jax.datasets.shapes import COLORS


@pytest.fixture(scope="module")
def pages():
    rng = np.random.default_rng(0)
    return [shapes_pages.sample_page(rng) for _ in range(300)]


def test_pages_are_wide_and_tall_and_of_whole_cells(pages):
    aspects = np.array([page.width / page.height for page in pages])
    assert aspects.max() == 8 and aspects.min() == 1 / 8 and 1 in aspects
    assert 0.3 < np.mean([page.is_wide for page in pages]) < 0.7
    cells = [page.height * page.width / 16**2 for page in pages]
    assert set(cells) == {8, 10, 12, 14, 15, 16}


def test_captions_list_the_shapes_in_their_order():
    page = shapes_pages.Page(30, 120, (0, 63, 8))
    assert page.caption == "a red circle, a black crescent and an orange circle"


def test_shapes_stand_in_order_within_the_page_and_apart(pages):
    rng = np.random.default_rng(1)
    for page in pages:
        drawn = shapes_pages.figures(page, rng)
        x, y = np.array([figure.center for figure in drawn]).T
        along = x if page.is_wide else y
        assert len(drawn) == len(page.combinations) and np.all(np.diff(along) > 13)
        for figure in drawn:
            points = np.concatenate(figure.outlines) * figure.radius + figure.center
            assert (points >= 0).all() and (points <= (page.width, page.height)).all()


def test_each_shape_has_its_color_where_it_is_drawn(pages):
    rng = np.random.default_rng(2)
    colors = np.array(list(COLORS.values()))
    for page in itertools.islice(pages, 20):
        seed = rng.integers(2**32)
        image = shapes_pages.render(page, np.random.default_rng(seed)).astype(int)
        assert image.shape == (page.height, page.width, 3)
        for combination in page.combinations:
            near = np.abs(image - colors[combination // 8]).max(axis=-1) <= 12
            assert near.sum() > 10


def test_records(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_pages.ShapesPages, "counts", {"train": 3, "test": 2})
    shapes_pages.ShapesPages(data_dir=str(tmp_path)).download_and_prepare()
    source = tfds_source("shapes_pages", "train", str(tmp_path))
    records = [source[index] for index in range(3)]
    assert len({decode(record["image"]).shape for record in records}) == 3
    assert len({record["captions"][0] for record in records}) == 3
