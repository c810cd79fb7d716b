import io
import itertools
import threading

import cv2
import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image

from coca_jax.data.transforms import images
from coca_jax.data_tools import image_hashes
from coca_jax.data_tools.image_hashes import (
    NO_HASH,
    find_duplicates,
    hash_source,
    near,
    perceptual_hash,
)
from coca_jax.errors import UserError


def texture(seed, side=200):
    """Random clouds, whose spectrum is about a photograph's."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    waves = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    cloud = np.fft.irfft2(waves / frequency**1.2, (side, side))
    cloud = 128 + 40 * cloud / cloud.std((1, 2), keepdims=True)
    return np.moveaxis(cloud, 0, -1).clip(0, 255).astype(np.uint8)


def gray3(gray):
    return np.repeat(gray[..., None], 3, -1)


def encoded(image, form="JPEG", size=None, **options):
    pil = Image.fromarray(image)
    if size:
        pil = pil.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    pil.save(file, form, **options)
    return file.getvalue()


def distance(a, b):
    """Bits that differ, counted one by one."""
    return f"{int(a) ^ int(b):b}".count("1")


class Images(list):
    """A source of encoded images, or of what is raised instead."""

    class_names = ()
    notes = ()

    def __getitem__(self, index):
        if isinstance(content := super().__getitem__(index), Exception):
            raise content
        return {"image": content, "captions": [], "label": -1, "labels": [], "fields": {}}

    def shard(self, index):
        return "images"

    def shards(self):
        return []


@pytest.fixture(scope="module")
def photo():
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.array(Image.open(file).convert("RGB"))


def test_a_photograph_keeps_its_hash_when_it_is_encoded_or_scaled_again(photo):
    first = perceptual_hash(photo)
    copies = [encoded(photo, quality=quality) for quality in (10, 50, 95)]
    copies += [encoded(photo, size=size, quality=80) for size in ((64, 75), (333, 400), (900, 900))]
    copies += [encoded(photo, "WEBP", quality=60), encoded(photo, "PNG")]
    for copy in copies:
        assert distance(perceptual_hash(images.decode(copy)), first) <= 2
        assert distance(perceptual_hash(images.decode(copy, image_hashes.LEAST_SIDE)), first) <= 2


def test_other_images_have_other_hashes(photo):
    hashes = [perceptual_hash(texture(seed)) for seed in range(40)] + [perceptual_hash(photo)]
    hashes += [perceptual_hash(np.ascontiguousarray(photo[:, ::-1]))]
    assert min(distance(a, b) for a, b in itertools.combinations(hashes, 2)) > 10
    rng = np.random.default_rng(0)
    noise = [perceptual_hash(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(20)]
    assert min(distance(a, b) for a, b in itertools.combinations(noise, 2)) > 10


def test_the_hash_is_the_low_frequencies_above_their_median():
    gray = texture(1, 32).mean(-1).astype(np.uint8)
    k, x = np.arange(8)[:, None], np.arange(32)
    basis = np.cos(np.pi * k * (2 * x + 1) / 64)
    basis[0] /= np.sqrt(2)
    low = basis @ gray @ basis.T
    bits = [
        int(bit) for bit in np.unpackbits(np.atleast_1d(perceptual_hash(gray3(gray))).view("u1"))
    ]
    assert bits == (low > np.median(low)).astype(int).ravel().tolist() and sum(bits) == 32


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2), (2000, 7)])
def test_images_of_any_shape_have_a_hash_unless_they_are_of_one_color(shape):
    rng = np.random.default_rng(0)
    flat = np.full((*shape, 3), 77, np.uint8)
    assert perceptual_hash(flat) == NO_HASH
    almost = flat + rng.integers(0, 2, flat.shape, np.uint8)
    assert perceptual_hash(almost) == NO_HASH
    if shape != (1, 1):
        assert perceptual_hash(gray3(rng.integers(0, 256, shape, np.uint8))) != NO_HASH


def brute_force(hashes, references, most):
    found = []
    for index, one in enumerate(hashes.tolist()):
        bits = [(one ^ other).bit_count() for other in references.tolist()]
        bits = [64 if 0 in (one, other) else b for b, other in zip(bits, references, strict=True)]
        if min(bits) <= most:
            found.append((index, bits.index(min(bits)), min(bits)))
    return found


@pytest.mark.parametrize(
    "most, block", [(0, 1), (4, 1), *((most, 1000) for most in (0, 3, 4, 8, 11, 15)), (7, 1 << 22)]
)
def test_the_search_finds_what_all_pairs_find(most, block, monkeypatch):
    monkeypatch.setattr(image_hashes, "_BLOCK", block)
    rng = np.random.default_rng(most)
    references = rng.integers(0, 2**64, 120, dtype=np.uint64)
    references[[3, 50]], references[60] = NO_HASH, references[10]
    hashes = rng.integers(0, 2**64, 500, dtype=np.uint64)
    for index in range(0, 400, 2):  # near one, of which bits are flipped anywhere
        flipped = rng.choice(64, rng.integers(0, most + 3), replace=False).tolist()
        mask = np.uint64(sum(1 << bit for bit in flipped))
        hashes[index] = references[rng.integers(120)] ^ mask
    hashes[[7, 9]] = NO_HASH
    found = near(hashes, references, most)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == brute_force(
        hashes, references, most
    )
    assert len(found.index) > 30


def test_the_nearest_of_many_references_is_told():
    references = np.array([0b1111, 0b0111, 0b0011, 0b0011], np.uint64) << np.uint64(30)
    found = near(np.array([0b0001, 0b1111], np.uint64) << np.uint64(30), references, 4)
    assert [column.tolist() for column in found] == [[0, 1], [2, 0], [1, 0]]


def test_nothing_is_near_nothing():
    some, none = np.array([5], np.uint64), np.array([], np.uint64)
    for pair in ((some, none), (none, some), (np.zeros(3, np.uint64), np.zeros(2, np.uint64))):
        assert all(len(column) == 0 for column in near(*pair, 4))
    for most in (-1, 16):
        with pytest.raises(UserError, match=rf"distance={most}: should be in \[0, 15\]"):
            near(some, some, most)


def test_sources_are_hashed_in_order_by_several_threads(capsys):
    files = [encoded(texture(seed, 64)) for seed in range(5)]
    readers = set()

    class Watched(Images):
        def __getitem__(self, index):
            readers.add(threading.get_ident())
            return super().__getitem__(index)

    source = Watched(files * 40)
    source[3], source[150] = b"<html>", OSError("shard is gone")
    found = hash_source(source, 4, "images of clouds")
    expected = np.array([perceptual_hash(images.decode(file)) for file in files] * 40)
    expected[[3, 150]] = NO_HASH
    np.testing.assert_array_equal(found.hashes, expected)
    assert np.flatnonzero(found.unread).tolist() == [3, 150]
    assert len(readers) > 1
    assert "images of clouds: 100%" in capsys.readouterr().err


@pytest.fixture(scope="module")
def found(photo):
    flat = encoded(np.full((40, 40, 3), 200, np.uint8))
    train = [encoded(texture(seed)) for seed in range(40)] + [flat, b"", encoded(photo)]
    test = {
        "clouds": Images([encoded(texture(seed)) for seed in range(100, 105)] + [flat]),
        "copies": Images(
            [
                encoded(texture(70)),
                encoded(texture(33), "PNG", (97, 120)),
                b"broken",
                encoded(photo, quality=25, size=(256, 300)),
            ]
        ),
    }
    return find_duplicates(Images(train), test, threads=2)


def test_duplicates_are_found_in_the_set_in_which_they_are(found):
    assert found.index.tolist() == [33, 42]
    assert (found.set_name, found.set_index.tolist()) == (["copies"] * 2, [1, 3])
    assert found.distance.max() <= 4 and found.size == 43
    assert found.flat == {"clouds": 1, "copies": 0, "": 1}
    assert found.unread == {"clouds": 0, "copies": 1, "": 1}
    assert [row[:3] for row in found.rows()] == [(33, "copies", 1), (42, "copies", 3)]


def test_sets_of_which_nothing_can_be_read_are_named(photo):
    good, bad = Images([encoded(photo)]), Images([OSError("no shard")] * 3)
    with pytest.raises(UserError, match="none of the 3 images of 'coco' can be read: no shard"):
        find_duplicates(good, {"flickr": good, "coco": bad})
    with pytest.raises(UserError, match="none of the 3 images of 'training set'"):
        find_duplicates(bad, {"flickr": good})
    with pytest.raises(UserError, match="'coco' has no images"):
        find_duplicates(good, {"coco": Images()})
    assert len(find_duplicates(good, {}).index) == 0


def test_decoding_to_fewer_pixels_keeps_the_hash():
    for seed in range(10):
        data = encoded(cv2.resize(texture(seed, 128), (700, 500)), quality=85)
        whole, reduced = images.decode(data), images.decode(data, image_hashes.LEAST_SIDE)
        assert reduced.shape < whole.shape
        assert distance(perceptual_hash(whole), perceptual_hash(reduced)) <= 2
