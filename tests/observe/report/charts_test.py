"""Where the charts' lines, ticks and dots lie, and that each is drawn."""

import math

import numpy as np
import pytest

from coca_jax.observe.report import charts


def test_bucket_means_by_hand():
    x = np.arange(6.0)
    y = np.array([1.0, 3.0, np.nan, 8.0, np.nan, np.inf])
    centers, mean, low, high = charts.bucket_means(x, y, buckets=3)
    np.testing.assert_array_equal(centers, [0.5, 2.5, 4.5])
    np.testing.assert_array_equal(mean, [2, 8, np.nan])
    np.testing.assert_array_equal(low, [1, 8, np.nan])
    np.testing.assert_array_equal(high, [3, 8, np.nan])


def test_few_points_are_drawn_as_they_are():
    x, y = np.array([0.0, 5.0]), np.array([2.0, 1.0])
    for values, expected in zip(charts.bucket_means(x, y), (x, y, y, y), strict=True):
        np.testing.assert_array_equal(values, expected)


def drawn(*ys, **options):
    return charts.line_chart(
        [(np.arange(len(y)) * 1e3, np.array(y, float)) for y in ys], "steps", **options
    )


def texts(ticks):
    return [tick.text for tick in ticks]


def points(path):
    """The pieces of a path, each a list of its (x, y)."""
    pieces = [piece.removesuffix("Z").split("L") for piece in path.split("M")[1:]]
    return [[tuple(map(float, point.split())) for point in piece] for piece in pieces]


def test_lines_lie_between_the_ticks_of_their_values():
    chart = drawn([1, 2, 3], [3, math.nan, 1])
    at = {tick.value: tick.position for tick in chart.y_ticks}
    across = {tick.value: tick.position for tick in chart.x_ticks}
    first, second = chart.lines
    expected = [(across[0], at[1]), (across[1000], at[2]), (across[2000], at[3])]
    np.testing.assert_allclose(points(first.path), [expected], atol=0.06)
    assert at[3] < at[2] < at[1]  # down is larger in SVG
    assert [value for *_, value in first.points] == [1, 2, 3]
    left, right = points(second.path)  # with a gap between them
    np.testing.assert_allclose(
        [left[0], right[0]], [(across[0], at[3]), (across[2000], at[1])], atol=0.06
    )


def test_a_band_is_the_range_of_neighbors():
    values = np.tile([1.0, 3.0], 80)
    (line,) = drawn(values).lines
    (band,), (path,) = points(line.band), points(line.path)
    assert line.points == [] and len(path) == 80 and len(band) == 160
    low, mean, high = band[-1][1], path[0][1], band[0][1]
    assert high < mean < low and mean == pytest.approx((low + high) / 2, abs=0.1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 2.1, "0 0.5 1.0 1.5 2.0"),
        (-1300, 2100, "−1000 0 1000 2000"),
        (1, 76.8e3, "20k 40k 60k"),
        (0, 4.4e6, "0 1M 2M 3M 4M"),
        (14.2856999, 14.2857031, "14.285700 14.285701 14.285702 14.285703"),
        (0, 4.1e-6, "0 1e-06 2e-06 3e-06 4e-06"),
        (1e300, 4e300, "1e+300 2e+300 3e+300 4e+300"),
    ],
)
def test_ticks_are_round(low, high, expected):
    ticks = charts.Axis(float(low), float(high), 0.0, 100.0).ticks(5)
    assert texts(ticks) == expected.replace("e-", "e−").split()
    positions = [100 * (tick.value - low) / (high - low) for tick in ticks]
    assert [tick.position for tick in ticks] == pytest.approx(positions)


def test_a_logarithmic_axis_only_where_values_span_decades():
    assert texts(drawn([0.1, 1, 12], log=True).y_ticks) == [
        "0.1",
        "0.2",
        "0.5",
        "1",
        "2",
        "5",
        "10",
    ]
    assert texts(drawn([1e-3, 1e3], log=True).y_ticks)[::3] == ["0.001", "1", "1000"]
    assert len(charts.log_ticks(1e-90, 1e90)) < 12
    linear = texts(drawn([0.1, 1, 12]).y_ticks)
    assert linear == ["0", "2.5", "5.0", "7.5", "10.0", "12.5"]
    assert texts(drawn([0, 1, 12], log=True).y_ticks) == linear


@pytest.mark.parametrize(
    "values",
    [
        [math.nan, math.nan],
        [5.0],
        [-3.0, -3.0],
        [0.0, 0.0],
        [1e308, -1e308],
        [1e308, math.inf],
        [5e-324, 1e-320],
        [1e16, 1e16 + 2],
        [1e-300, 1e300],
    ],
)
def test_any_values_can_be_drawn(values):
    for log in (False, True):
        chart = drawn(values, log=log)
        assert len(chart.y_ticks) <= 12 and len(chart.x_ticks) <= 12
        for piece in points(chart.lines[0].path) + points(chart.lines[0].band):
            for x, y in piece:
                assert chart.x.begin <= x <= chart.x.end and chart.y.end <= y <= chart.y.begin


def test_a_confusion_is_deep_where_its_share_of_the_row_is_large():
    chart = charts.confusion_chart([[3, 1], [0, 0]], ["cat", "dog"])
    np.testing.assert_allclose(chart.depths, [[0.75**0.5, 0.5], [0, 0]])
    assert chart.extent == chart.margin + 80


def test_dots_lie_where_their_values_are():
    chart = charts.dot_chart({"a": [1.0, 3.0], "b": [2.0]})
    (low, high), (middle,) = (row.places for row in chart.rows)
    assert chart.axis.begin < low < high < chart.axis.end
    assert [middle, *(row.mean for row in chart.rows)] == pytest.approx([(low + high) / 2] * 3)


def test_dots_of_one_value_everywhere():
    first, second = charts.dot_chart({"a": [0.0], "b": [0.0]}).rows
    assert first.places == second.places
