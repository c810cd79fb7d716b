import math

import pytest

from coca_jax.observe.report import text


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
    assert text.number(value) == expected


def test_label():
    assert text.label("train/grad_norm/a<b") == "grad norm: a&lt;b"
