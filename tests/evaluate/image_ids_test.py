"""Records of one image, by its id in the fields that other projects have, or by its bytes."""

import math

import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate.image_ids import ImageIds, UniqueImages, grouped, id_of


def batch(*records):
    """Of (fields, digest, captions)."""
    fields, digests, captions = zip(*records, strict=True)
    pixels = np.arange(len(records), dtype=np.uint8)[:, None, None, None]
    return {"image": pixels, "fields": fields, "digest": digests, "captions": captions}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_id": 7, "id": 100}, 7),
        ({"cocoid": "COCO_7", "imgid": 3}, "COCO_7"),
        ({"image/id": 9}, 9),
        ({"image_id": 7.0}, 7),
        ({"image_id": None, "cocoid": 5}, 5),
        *(({"image_id": value}, None) for value in (math.nan, 0.5, "", " ", True, [1], b"7")),
        ({"id": 100, "key": "000"}, None),  # as often those of a caption
        ({}, None),
    ],
)
def test_ids_of_images(fields, expected):
    assert id_of(fields) == expected


def test_records_are_of_one_image_by_its_id_or_else_by_equal_bytes(capsys):
    ids, seven, five = ImageIds(), {"image_id": 7}, {"image_id": "5"}
    first = [(seven, b"a", ["x"]), (seven, b"a", ["y"]), ({}, b"b", ["z"]), (five, b"c", [])]
    assert ids.add(batch(*first)) == [0, 0, 1, 2]
    again = [({"cocoid": "7"}, b"a", []), ({}, b"b", []), ({}, b"d", []), ({"imgid": 5}, b"c", [])]
    assert ids.add(batch(*again)) == [0, 1, 3, 2]
    assert ids.ids() == [7, 2, "5", 6]  # numbers of the records where there is no id
    ids.check()
    assert capsys.readouterr().err == ""


def test_numbers_of_records_are_no_ids_of_others():
    ids = ImageIds()
    ids.add(batch(({}, b"a", []), ({"image_id": 0}, b"b", []), ({}, b"c", [])))
    assert ids.ids() == ["record 0", 0, 2]


def test_without_bytes_and_ids_every_record_is_an_image():
    ids, plain = ImageIds(), {"image": np.zeros((2, 1, 1, 3), np.uint8)}
    assert ids.add(plain) == [0, 1] and ids.add(plain) == [2, 3]
    assert ids.ids() == [0, 1, 2, 3]


def test_ids_and_bytes_that_disagree_are_said(capsys):
    ids = ImageIds()
    ids.add(batch(*(({"image_id": i}, bytes([n]), []) for i, n in enumerate((1, 1, 2, 1, 3)))))
    ids.check()
    printed = capsys.readouterr().err
    assert (
        "2 of 5 images are equal byte for byte to another one" in printed
        and "record" not in printed
    )
    ids = ImageIds()
    ids.add(batch(*(({"image_id": i}, bytes([i, n]), []) for i in (1, 2) for n in range(3))))
    ids.check()
    assert "4 of 6 records have the image id of another record, and" in capsys.readouterr().err


def test_one_id_for_all_is_none():
    ids = ImageIds()
    ids.add(batch(*(({"image_id": 0}, bytes([n]), []) for n in range(3))))
    with pytest.raises(UserError, match="all 3 records have the image id 0, and not the same"):
        ids.check()


def test_images_come_once_in_full_batches_with_all_their_captions():
    keys = [0, 0, 1, 0, 2, 2, 3, 4, 5, 1]
    records = [({"image_id": key}, b"", [f"{place}"]) for place, key in enumerate(keys)]
    made = [batch(*records[:3]), batch(*records[3:6]), batch(*records[6:])]
    images = UniqueImages(iter(made))
    assert [pixels.ravel().tolist() for pixels in images] == [[0, 2, 1], [0, 1, 2]]
    expected = [["0", "1", "3"], ["2", "9"], ["4", "5"], ["6"], ["7"], ["8"]]
    assert images.captions == expected
    assert grouped([texts for *_, texts in records], keys) == expected
    assert images.ids.ids() == [0, 1, 2, 3, 4, 5]
