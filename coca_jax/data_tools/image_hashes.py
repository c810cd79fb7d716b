"""Finds near-duplicates among images: training images that look like those of evaluation sets.

Images are compared by pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions", https://phash.org/docs/pubs/thesis_zauner.pdf): 64 bits, of which few change when an
image is scaled or compressed again. Cropped, rotated or mirrored copies are missed, and so are some
copies of symmetric drawings, because half of their bits are rounding errors. Images of one color
have no hash and are not compared.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16, UInt64
from tqdm import tqdm

from coca_jax.data.sources import Source
from coca_jax.data.transforms import multi_image
from coca_jax.errors import UserError

DISTANCE = 4  # bits; one pair of random hashes in 3e13 is this near
NO_HASH = np.uint64(0)
FLAT = 2.0  # gray levels: an image with a smaller standard deviation counts as one color
LEAST_SIDE = 64  # pixels; larger JPEGs are decoded to a side of 64 to 127, which is faster

_BANDS = 4  # bands of 16 bits, by which a hash is looked up
_BLOCK = 1 << 22  # pairs of hashes compared at a time, to bound memory
_CHUNK = 32  # images that a thread hashes at a time


class Hashes(NamedTuple):
    """The hashes of a source's records, in order."""

    hashes: UInt64[np.ndarray, " n"]  # NO_HASH for images without one
    unread: Bool[np.ndarray, " n"]  # records that could not be read or decoded


class Near(NamedTuple):
    """Hashes that are near a reference, each with its nearest reference (the first of a tie)."""

    index: Int64[np.ndarray, " m"]  # sorted
    reference: Int64[np.ndarray, " m"]
    distance: Int64[np.ndarray, " m"]  # bits


class Duplicates(NamedTuple):
    """Training records that look like a reference, and counts of what was not compared."""

    index: Int64[np.ndarray, " m"]  # sorted record numbers
    set_name: list[str]  # the reference set of each record
    set_index: Int64[np.ndarray, " m"]  # record numbers in the reference set
    distance: Int64[np.ndarray, " m"]  # bits
    size: int  # training records
    # The number of images that were not compared, by the set's name; "" is the training set.
    flat: dict[str, int]  # of one color
    unread: dict[str, int]  # damaged

    def rows(self) -> Iterator[tuple]:
        """Rows of (record, set, record of the set, distance), as in `exclude_list.COLUMNS`."""
        return zip(self.index, self.set_name, self.set_index, self.distance, strict=True)


def perceptual_hash(image: UInt8[np.ndarray, "h w 3"]) -> np.uint64:
    """Returns the pHash of an RGB image: a bit for each low frequency, set if above the median.

    An image of one color gets NO_HASH (0), which no other image can have.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < FLAT:
        return NO_HASH
    low = cv2.dct(small)[:8, :8]
    return np.packbits(low > np.median(low)).view(np.uint64)[0]


def hash_source(source: Source, threads: int, description: str) -> Hashes:
    """Hashes all images of a source, with a progress bar, and marks those that are damaged.

    Args:
      source: the images.
      threads: the number of threads that read and decode.
      description: the title of the progress bar.
    """
    import grain

    size = len(source)
    hashes, unread = np.zeros(size, np.uint64), np.zeros(size, bool)

    def chunk(number: int) -> tuple[np.ndarray, np.ndarray]:
        records = range(number * _CHUNK, min((number + 1) * _CHUNK, size))
        results = [_hash_record(source, index) for index in records]
        bad = np.array([isinstance(result, Exception) for result in results])
        return np.where(bad, NO_HASH, results).astype(np.uint64), bad

    chunks = grain.MapDataset.range(-(-size // _CHUNK)).map(chunk)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    done = 0
    with tqdm(total=size, desc=description, unit=" images") as bar:
        for values, bad in chunks.to_iter_dataset(options):
            end = done + len(values)
            hashes[done:end], unread[done:end] = values, bad
            done = end
            bar.update(len(values))
    return Hashes(hashes, unread)


def near(
    hashes: UInt64[np.ndarray, " n"], references: UInt64[np.ndarray, " r"], distance: int
) -> Near:
    """Finds all hashes that differ from a reference in at most `distance` bits.

    Such a pair has one of its four 16-bit bands in which at most `distance / 4` bits differ, so
    only pairs with such a band are compared. NO_HASH is near nothing.

    Raises:
      UserError: `distance` is not in [0, 15]; images with more differing bits are not alike.
    """
    _check(distance)
    unique, first = np.unique(references, return_index=True)
    kept = unique != NO_HASH
    unique, first = unique[kept], first[kept]
    best = np.full(len(hashes), 64, np.int64)
    which = np.full(len(hashes), -1, np.int64)
    for query, row in _candidates(hashes, unique, distance // _BANDS):
        bits = np.bitwise_count(hashes[query] ^ unique[row])
        close = bits <= distance
        query, bits, row = query[close], bits[close].astype(np.int64), first[row[close]]
        order = np.lexsort((row, bits, query))
        query, bits, row = query[order], bits[order], row[order]
        leads = np.flatnonzero(np.diff(query, prepend=-1))  # the best of each query
        query, bits, row = query[leads], bits[leads], row[leads]
        better = (bits < best[query]) | ((bits == best[query]) & (row < which[query]))
        best[query[better]], which[query[better]] = bits[better], row[better]
    index = np.flatnonzero(best <= distance)
    return Near(index, which[index], best[index])


def find_duplicates(
    train: Source,
    references: Mapping[str, Source],
    distance: int = DISTANCE,
    threads: int = 16,
) -> Duplicates:
    """Compares every training image with every reference image.

    Args:
      train: the training set.
      references: evaluation sets, by name.
      distance: bits of 64 that may differ.
      threads: the number of threads that read and decode.

    Raises:
      UserError: a set has no readable image, or `distance` is not in [0, 15].
    """
    _check(distance)
    sets = {name: _readable(source, threads, name) for name, source in references.items()}
    sets[""] = _readable(train, threads, "training set")
    names = list(references)
    pooled = np.concatenate([np.zeros(0, np.uint64), *(sets[name].hashes for name in names)])
    pairs = near(sets[""].hashes, pooled, distance)
    begins = np.cumsum([0, *(len(sets[name].hashes) for name in names)])
    which = np.searchsorted(begins, pairs.reference, side="right") - 1
    return Duplicates(
        pairs.index,
        [names[i] for i in which.tolist()],
        pairs.reference - begins[which],
        pairs.distance,
        size=len(train),
        flat={name: _count_flat(hashes) for name, hashes in sets.items()},
        unread={name: int(hashes.unread.sum()) for name, hashes in sets.items()},
    )


def _check(distance: int) -> None:
    if not 0 <= distance < 16:
        raise UserError(f"distance={distance}: should be in [0, 15] (of 64 bits)")


def _readable(source: Source, threads: int, name: str) -> Hashes:
    if not len(source):
        raise UserError(f"{name!r} has no images to compare")
    hashes = hash_source(source, threads, name)
    if hashes.unread.all():
        cause = _hash_record(source, 0)
        raise UserError(f"none of the {len(source):,} images of {name!r} can be read: {cause}")
    return hashes


def _count_flat(hashes: Hashes) -> int:
    return int(((hashes.hashes == NO_HASH) & ~hashes.unread).sum())


def _hash_record(source: Source, index: int) -> np.uint64 | Exception:
    try:
        return perceptual_hash(
            multi_image.decode_images(source[index]["image"], least_side=LEAST_SIDE)[0]
        )
    except Exception as error:  # whatever a reader or decoder raises
        return error


def _candidates(
    hashes: UInt64[np.ndarray, " n"], references: UInt64[np.ndarray, " r"], flips: int
) -> Iterator[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]]:
    """Yields indices into both arrays of pairs with a band in which at most `flips` bits differ."""
    values = np.arange(1 << 16, dtype=np.uint16)
    masks = values[np.bitwise_count(values) <= flips]
    hashed = np.flatnonzero(hashes != NO_HASH)
    for band in range(_BANDS):
        keys = _band(references, band)
        keys = (keys[:, None] ^ masks).ravel()
        order = np.argsort(keys, kind="stable")
        rows = order // len(masks)
        begins = np.zeros((1 << 16) + 1, np.int64)
        np.cumsum(np.bincount(keys, minlength=1 << 16), out=begins[1:])
        wanted = _band(hashes[hashed], band)
        counts = np.diff(begins)[wanted]
        for block in _blocks(counts):
            count = counts[block]
            # For each query begins[key], begins[key] + 1, ... into the sorted references.
            offsets = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            sorted_index = np.repeat(begins[wanted[block]], count) + offsets
            yield np.repeat(hashed[block], count), rows[sorted_index]


def _band(hashes: UInt64[np.ndarray, " n"], band: int) -> UInt16[np.ndarray, " n"]:
    return (hashes >> np.uint64(16 * band)).astype(np.uint16)


def _blocks(counts: Int64[np.ndarray, " n"]) -> Iterator[slice]:
    """Cuts counts into slices with a sum of at most _BLOCK, or of one element."""
    sums = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = sums[start - 1] if start else 0
        stop = max(int(np.searchsorted(sums, before + _BLOCK, side="right")), start + 1)
        yield slice(start, stop)
        start = stop
