import re
import xml.etree.ElementTree as ET

import numpy as np

from coca_jax.observe.report import charts

SVG = "{http://www.w3.org/2000/svg}"


def test_bucket_means_by_hand():
    x = np.arange(6.0)
    y = np.array([1.0, 3.0, np.nan, 8.0, np.nan, np.inf])
    centre, mean, low, high = charts.bucket_means(x, y, buckets=3)
    np.testing.assert_array_equal(centre, [0.5, 2.5, 4.5])
    np.testing.assert_array_equal(mean, [2, 8, np.nan])
    np.testing.assert_array_equal(low, [1, 8, np.nan])
    np.testing.assert_array_equal(high, [3, 8, np.nan])


def test_few_points_are_drawn_as_they_are():
    x, y = np.array([0.0, 5.0]), np.array([2.0, 1.0])
    for values, expected in zip(charts.bucket_means(x, y), (x, y, y, y), strict=True):
        np.testing.assert_array_equal(values, expected)


def drawn(*ys, **options):
    return charts.line_chart(
        [(np.arange(len(y)) * 1e3, np.array(y)) for y in ys], "steps", **options
    )


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_line_chart_is_one_svg_element_in_the_pages_colours():
    svg = drawn([1.0, 2.0, 3.0], [3.0, np.nan, 1.0])
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert "viewBox" in root.attrib and "width" not in root.attrib
    colours = set(re.findall(r"(?:stroke|fill): (?!none)([^;\"]+)", svg))
    wanted = {"var(--line-0)", "var(--line-1)", "var(--muted)", "var(--hair)"}
    assert wanted <= colours
    assert not [colour for colour in colours if colour.startswith("#0000")]
    assert {"0", "2k", "steps"} <= set(texts(svg))


def test_a_logarithmic_axis_only_where_values_span_decades():
    ticks = {"0.1", "1", "10"}
    assert ticks <= set(texts(drawn([0.1, 1.0, 12.0], log=True)))
    assert not ticks <= set(texts(drawn([0.1, 1.0, 12.0])))
    assert texts(drawn([0.0, 1.0, 12.0], log=True)) == texts(drawn([0.0, 1.0, 12.0]))


def test_a_line_without_a_finite_value_can_be_drawn():
    assert ET.fromstring(drawn([np.nan, np.nan], log=True)).tag == f"{SVG}svg"


def test_confusion_has_a_square_for_each_pair():
    root = ET.fromstring(
        charts.confusion_chart([[3, 1], [0, 0]], ["<cat>", "dog"]).replace(
            "<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1
        )
    )
    squares = [
        (rect.get("class"), rect.get("style"), rect.find(f"{SVG}title").text)
        for rect in root.iter(f"{SVG}rect")
    ]
    assert squares == [
        ("right", "--depth:0.87", "<cat> taken for <cat>: 3 of 4"),
        ("wrong", "--depth:0.50", "<cat> taken for dog: 1 of 4"),
        ("wrong", "--depth:0.00", "dog taken for <cat>: 0 of 0"),
        ("right", "--depth:0.00", "dog taken for dog: 0 of 0"),
    ]
