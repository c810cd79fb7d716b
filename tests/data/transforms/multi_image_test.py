import cv2
import numpy as np
import pytest

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import multi_image


def png(value):
    return cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (2, 2, [0, 1]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 2, [2, 6]),
        (10, 4, [1, 3, 6, 8]),
        (100, 1, [50]),
        (1, 3, [0, 0, 0]),
        (2, 4, [0, 0, 1, 1]),
    ],
)
def test_places_are_evenly_spaced(total, count, expected):
    assert multi_image.evenly_spaced(total, count) == expected


def test_pictures_of_a_list_and_of_one_image():
    found = multi_image.decode_images([png(v) for v in (10, 20, 30, 40)], 2)
    assert [frame[0, 0, 0] for frame in found] == [20, 40]
    assert [frame[0, 0, 0] for frame in multi_image.decode_images(png(7), 2)] == [7, 7]
    with pytest.raises(BadExample, match="no image"):
        multi_image.decode_images([], 1)
    with pytest.raises(BadExample):
        multi_image.decode_images([png(1), b"damaged"], 2)
    assert (
        len(multi_image.decode_images([b"damaged", png(1), b"damaged"], 1)) == 1
    )  # the middle one


CONTAINERS = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "mp4v", ".webm": "VP80", ".mpg": "PIM1"}


@pytest.fixture(scope="module", params=CONTAINERS)
def video(request, tmp_path_factory):
    """Twenty frames, each brighter than the one before; of .mpg OpenCV counts one."""
    path = str(tmp_path_factory.mktemp("video") / f"clip{request.param}")
    code = cv2.VideoWriter_fourcc(*CONTAINERS[request.param])
    writer = cv2.VideoWriter(path, code, 25, (64, 48))
    for i in range(20):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 2] = 12 * i  # red
        writer.write(frame)
    writer.release()
    with open(path, "rb") as file:
        return file.read()


def test_frames_of_a_video_are_evenly_spaced_and_rgb(video):
    assert multi_image.is_video(video)
    found = multi_image.decode_images(video, 4)
    assert [frame.shape for frame in found] == [(48, 64, 3)] * 4
    for frame, place in zip(found, [2, 7, 12, 17], strict=True):
        red, green, blue = frame.reshape(-1, 3).mean(axis=0)
        assert abs(red - 12 * place) < 8 and green < 8 and blue < 8
    assert len(multi_image.decode_images(video, 50)) == 50


def test_a_video_is_gone_through_once_if_its_count_is_right(video, monkeypatch):
    read, calls = multi_image._read, []
    monkeypatch.setattr(multi_image, "_read", lambda *a: calls.append(a) or read(*a))
    multi_image.decode_images(video, 4)
    assert len(calls) == 1 + video.startswith(b"\0\0\x01\xba")  # .mpg


def test_the_header_of_a_video_is_a_bad_example(video):
    with pytest.raises(BadExample, match="video"):
        multi_image.decode_images(video[:40], 2)


def test_what_is_left_of_a_video_is_taken(video):
    cut = video[: len(video) * 2 // 3]
    if b"moov" in video:  # the index of a .mp4, at its end
        with pytest.raises(BadExample, match="OpenCV cannot read"):
            multi_image.decode_images(cut, 2)
        return
    left = multi_image.decode_images(cut, 2)
    dark, bright = (frame[..., 0].mean() for frame in left)
    assert dark < bright < 17 * 12


class Damaged:
    """A video with this many frames, of which only the first can be decoded."""

    def __init__(self, frames):
        self._frames, self._at = frames, -1

    def get(self, key):
        return 4.0

    def grab(self):
        self._at += 1
        return self._at < self._frames

    def retrieve(self):
        return self._at == 0, np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize("frames", [0, 4])
def test_frames_that_cannot_be_decoded_make_a_bad_example(frames, monkeypatch):
    monkeypatch.setattr(multi_image, "_open", lambda path: Damaged(frames))
    with pytest.raises(BadExample, match=f"a video of {frames} frames"):
        multi_image.decode_images(b"\0\0\0\x20ftypisom", 2)


def test_other_files_are_no_videos():
    avif = b"\0\0\0\x20ftypavif" + bytes(20)
    assert not any(map(multi_image.is_video, (png(1), avif, b"", b"RIFF\0\0\0\0WEBPVP8 ")))
    for brand in (b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevx", b"mif1"):
        assert not multi_image.is_video(b"\0\0\0\x20ftyp" + brand + bytes(20))
    assert multi_image.is_video(b"\0\0\0\x20ftypisom" + bytes(20))


def test_strips():
    batch = np.arange(2 * 3 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 3, 2, 2, 3)
    strips = multi_image.side_by_side(batch)
    assert strips.shape == (2, 2, 2 + 1 + 2 + 1 + 2, 3)
    np.testing.assert_array_equal(strips[1][:, 3:5], batch[1, 1])
    assert (strips[:, :, [2, 5]] == 255).all()
    np.testing.assert_array_equal(multi_image.side_by_side(batch[:, 0]), batch[:, 0])
