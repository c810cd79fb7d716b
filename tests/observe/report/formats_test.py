import math

import pytest

from coca_jax.observe.report import formats


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "0.5000"),
        (1.0, "1.0000"),
        (0, "0"),
        (200.0, "200"),
        (-2.97351, "−2.9735"),
        (12.345, "12.3"),
        (1790.6, "1,791"),
        (0.0003, "0.0003"),
        (8e-6, "8e−06"),
        (382812417, "382,812,417"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
    ],
)
def test_number(value, expected):
    assert formats.number(value) == expected


def test_label():
    assert formats.label("train/grad_norm/a_b") == "grad norm: a b"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("equal_FLOPs", "Equal FLOPs"),
        ("LoRA vs. full", "LoRA vs. full"),
        ("ViT-B/16", "ViT-B/16"),
        ("", ""),
    ],
)
def test_a_heading_of_what_a_person_wrote(title, expected):
    assert formats.heading(formats.words(title)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (119.6, "2 min 0 s"),
        (7500.0, "2 h 5 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_duration(seconds, expected):
    assert formats.duration(seconds) == expected
