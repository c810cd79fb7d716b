import numpy as np
import pytest

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.datasets import shapes_clips
from coca_jax.datasets.shapes import Shape

SCENE = (Shape(3, 1, 7, 0),)  # a large black circle at the bottom right


def centers_and_areas(change):
    """Of the dark pixels of each frame."""
    frames = shapes_clips.render_clip(SCENE, change, np.random.default_rng(0))
    assert len(frames) == shapes_clips.FRAMES
    dark = [np.argwhere(frame.max(axis=-1) < 100) for frame in frames]
    return np.array([places.mean(axis=0) for places in dark]), [len(places) for places in dark]


@pytest.mark.parametrize(
    ("change", "direction"),
    [
        ("moves left", (0, -1)),
        ("moves right", (0, 1)),
        ("moves up", (-1, 0)),
        ("moves down", (1, 0)),
    ],
)
def test_what_moves_goes_where_is_said(change, direction):
    centers, _ = centers_and_areas(change)
    steps = np.diff(centers, axis=0)
    along, across = steps @ direction, steps @ np.flip(direction)
    assert (along > 0.1).all() and np.abs(across).max() < 0.3


def test_what_grows_or_shrinks():
    _, grown = centers_and_areas("grows")
    _, shrunk = centers_and_areas("shrinks")
    assert (np.diff(grown) > 0).all() and (np.diff(shrunk) < 0).all()
    centers, same = centers_and_areas("stays")
    assert len(set(same)) == 1 and np.ptp(centers) == np.ptp(centers[0])


def test_records(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_clips.ShapesClips, "counts", {"train": 3, "test": 2, "test_novel": 1})
        builder = shapes_clips.ShapesClips(data_dir=str(tmp_path))
        builder.download_and_prepare()
    source = tfds_source("shapes_clips", "train", str(tmp_path))
    assert len(source) == 3 and source.class_names == list(shapes_clips.CHANGES)
    for record in map(source.__getitem__, range(3)):
        assert len(record["image"]) == shapes_clips.FRAMES and 0 <= record["label"] < 7
        assert len(record["captions"]) == 1
