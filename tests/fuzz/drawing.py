"""Hypothesis strategies shared by tests: texts, names, JSON values, images, damage to files."""

import copy
import functools
import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

# Line breaks that are none, blanks, marks, separators, words for nothing, halves of pairs.
ODD = [
    *("", " ", "\t", "\ufeff", "\ufeffa", "\0", "\x1f", "\x7f", "\x85", "\u2028", "\u200b", "\r"),
    *("a,b", "a;b", "a\tb", "a|b", '"', '"a', 'a"', '"a"', '""', "'", "\\", "a\nb", "a\r\nb"),
    *("NaN", "nan", "null", "None", "NA", "True", "inf", "-1", "1e999", "0x10", "٣", "{}", "{a}"),
    *("[", "[]", "['a', 'b']", '["a"]', "[1]", "é", "e\u0301", "日本", "👩\u200d👧", "a" * 3000),
]
TEXT = st.sampled_from(ODD) | st.text(max_size=12) | st.just("a caption")

# Parts of the names of files, without dots.
NAME = st.sampled_from(
    [
        *("a", "A", "0", "a b", "é", "e\u0301", "日本", "%20", "[a]", "{a,b}", "*", "#", "?", "-"),
        *("~", "\\", "a" * 120, "a\nb", "'", '"', ":", "a=b", "\udcff"),
    ]
)
NUMBERS = st.integers(-3, 12) | st.integers() | st.floats() | st.just(10**400)
LEAF = st.none() | st.booleans() | NUMBERS | TEXT | st.just("\ud800")
VALUE = st.recursive(
    LEAF, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=4
)

PLACE = st.integers(0, 1 << 16) | st.integers(0, 600)
EDITS = ("flip", "set", "cut", "remove", "repeat", "zero", "insert", "swap", "append")
_EDIT = st.tuples(st.sampled_from(EDITS), PLACE, st.integers(0, 600), st.binary(max_size=8))


def edits(least=0, most=3):
    """Damage to the bytes of a file, for `edited`."""
    return st.lists(_EDIT, min_size=least, max_size=most)


def edited(data, changes):
    """Bytes with damage that `edits` drew."""
    data = bytearray(data)
    for kind, place, size, more in changes:
        at = place % (len(data) + 1)
        end = min(at + size, len(data))
        if kind == "cut":
            del data[at:]
        elif kind == "append":
            data += more
        elif kind == "insert":
            data[at:at] = more
        elif kind == "remove":
            del data[at:end]
        elif kind == "repeat":
            data[at:at] = data[at:end]
        elif kind == "zero":
            data[at:end] = bytes(end - at)
        elif kind == "swap":
            data = data[at:] + data[:at]
        elif kind == "set":
            data[at : at + len(more)] = more
        elif at < len(data):
            data[at] ^= 1 << size % 8
    return bytes(data)


# A place in a tree of JSON, and what is put there.
CHANGE = st.tuples(
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    VALUE | st.sampled_from(["delete", "rename", {}, [], 0, 1, 8, 0.5, True, "none", ["a", "b"]]),
)


def put(tree, place, value):
    """Changes a value in a tree, or deletes or renames its key; each number counts keys."""
    value = copy.deepcopy(value)
    for depth, number in enumerate(place, 1):
        keys = list(tree) if isinstance(tree, dict) else [*range(len(tree))]
        if not keys:
            return
        key = keys[number % len(keys)]
        if depth == len(place) or not isinstance(tree[key], dict | list):
            break
        tree = tree[key]
    if value == "delete":
        del tree[key]
    elif value == "rename" and isinstance(tree, dict):
        tree["renamed"] = tree.pop(key)
    else:
        tree[key] = value


@functools.cache
def encoded(form="JPEG", mode="RGB", height=6, width=5, **options):
    """A small image file, the same each time."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
