"""Geometry of the report's charts, which `templates/charts.html` draws as SVG.

Drawn here and not by a plotting package: a page's charts take its own colors, light or dark, show
a value where one points at it, and cost a millisecond each.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BUCKETS = 80
MARKED = 12  # a line of fewer points has its points marked
LARGEST = 1e300  # larger values are drawn there: the span of an axis must be finite, too
SUFFIXES = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}

Curve = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]
"""The x values, ascending, and the y values of a line; a value that is not finite leaves a gap."""


class Tick(NamedTuple):
    """A mark of an axis: its value, where it lies in the drawing, and its text."""

    value: float
    position: float
    text: str


class Axis(NamedTuple):
    """The values at both ends of an axis, and where these lie in the drawing."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool = False

    def place(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """The positions of values in the drawing."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, values = math.log10(low), math.log10(high), np.log10(values)
        return self.begin + (self.end - self.begin) * (values - low) / (high - low)

    def ticks(self, most: int) -> list[Tick]:
        """Ticks at round values; on a linear axis, at most `most + 1`."""
        if self.is_log:
            values = log_ticks(self.low, self.high)
            texts = [f"{value:g}" for value in values]
        else:
            values, step = linear_ticks(self.low, self.high, most)
            texts = tick_texts(values, step)
        positions = self.place(np.array(values, float))
        return [Tick(*tick) for tick in zip(values, positions, texts, strict=True)]


class Line(NamedTuple):
    """A drawn line: its path, the path of the band of its range, and its marked points."""

    path: str
    band: str
    points: list[tuple[float, float, float]]
    """x and y in the drawing, and the value."""


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A drawing of lines over one x axis."""

    lines: list[Line]
    x: Axis
    y: Axis
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_label: str
    width = 374
    height = 187


def line_chart(curves: Sequence[Curve], x_label: str, log: bool = False) -> LineChart:
    """Lines over one x axis; of a long one, the means of neighbors and their range.

    Args:
      curves: in the order of the page's colors.
      x_label: what x counts.
      log: whether y may be logarithmic; it is where positive values span a factor of 50.
    """
    buckets = [bucket_means(*curve) for curve in curves]
    low, high = _ends(np.concatenate([np.concatenate([low, high]) for _, _, low, high in buckets]))
    is_log = log and low > 0 and 50 < high / low < LARGEST**0.5
    y = Axis(*_padded(low, high, 0.05, is_log), LineChart.height - 34, 6, is_log)
    left = 12 + 5.5 * max((len(tick.text) for tick in y.ticks(6)), default=1)
    x_ends = _padded(*_ends(np.concatenate([x for x, *_ in buckets])), 0.03)
    x = Axis(*x_ends, left, LineChart.width - 6)
    return LineChart(
        [_line(bucket, x, y) for bucket in buckets],
        *(x, y, x.ticks(7), y.ticks(6), x_label),
    )


def _line(bucket: tuple[Float[np.ndarray, "m"], ...], x: Axis, y: Axis) -> Line:
    """The drawing of one line of buckets, in pieces where values are missing."""
    across, along, below, above = x.place(bucket[0]), *map(y.place, bucket[1:])
    path, band = [], []
    for piece in np.ma.clump_unmasked(np.ma.masked_invalid(bucket[1])):
        points, upper, lower = (
            list(zip(across[piece], heights[piece], strict=True))
            for heights in (along, above, below)
        )
        path.append(_path(points if len(points) > 1 else points * 2))  # a dot is a line, too
        band.append(_path([*upper, *reversed(lower)]) + "Z")
    marks = zip(across, along, bucket[1], strict=True) if len(across) < MARKED else ()
    return Line("".join(path), "".join(band), [mark for mark in marks if math.isfinite(mark[1])])


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def bucket_means(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], buckets: int = BUCKETS
) -> tuple[Float[np.ndarray, "m"], ...]:
    """The x, mean, minimum and maximum of at most `buckets` runs of neighbors.

    Values that are not finite are left out; a bucket with nothing else is NaN.
    """
    y = np.where(np.isfinite(y), np.clip(y, -LARGEST, LARGEST), np.nan)
    x = np.clip(x, -LARGEST, LARGEST)
    runs = np.array_split(np.arange(len(y)), min(buckets, len(y)))
    rows = [(x[run].mean(), *_summary(y[run][~np.isnan(y[run])])) for run in runs]
    return tuple(np.array(rows, float).reshape(-1, 4).T)


def _summary(values: Float[np.ndarray, "n"]) -> tuple[float, float, float]:
    if not len(values):
        return math.nan, math.nan, math.nan
    return float(values.mean()), float(values.min()), float(values.max())


def _ends(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """The smallest and the largest finite value; 0 and 1 if there is none."""
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def _padded(low: float, high: float, share: float, is_log: bool = False) -> tuple[float, float]:
    """Both ends moved apart by a share of the span; the ends of a single value become distinct."""
    if is_log:
        factor = (high / low) ** share
        return low / factor, high * factor
    size = max(abs(low), abs(high))
    if size < 1 / LARGEST:
        return low - 1, high + 1
    pad = share * (high - low) if high - low > 1e-9 * size else 0.05 * size
    return low - pad, high + pad


def linear_ticks(low: float, high: float, most: int) -> tuple[list[float], float]:
    """Multiples of a round step from `low` to `high`, at most `most + 1`, and the step."""
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= least * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)], step


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`; of few, 2 and 5 times each, too; of many, every n-th."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = 1 + (last - first - 1) // 8
    factors = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(first - first % stride, last + 1, stride)
    return [v for power in powers for f in factors if low <= (v := f * 10.0**power) <= high]


def tick_texts(values: Sequence[float], step: float) -> list[str]:
    """Texts with the decimals that the step needs, in thousands, millions, ... if large."""
    size = max(map(abs, values), default=0.0)
    if size >= 1e16 or size < 1e-3:
        return [f"{value:.3g}".replace("-", "−") for value in values]
    scale = next((scale for scale in SUFFIXES if size >= max(scale, 1e4)), 1.0)
    decimals = max(0, -Decimal(f"{step / scale:.6g}").normalize().as_tuple().exponent)
    suffix = SUFFIXES.get(scale, "")
    return [
        f"{value / scale:.{decimals}f}{suffix}".replace("-", "−") if value else "0"
        for value in values
    ]


class ConfusionChart(NamedTuple):
    """A square for each label (row) and prediction (column)."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    depths: list[list[float]]
    """From 0 to 1: the root of the share of the row, so that rare confusions can be seen."""
    size: int  # of a square
    font: int
    margin: int  # for the names

    @property
    def extent(self) -> int:
        """Width and height of the drawing."""
        return self.margin + self.size * len(self.names)


def confusion_chart(counts: Sequence[Sequence[int]], names: Sequence[str]) -> ConfusionChart:
    """A chart of counts by label and prediction; its squares are smaller where there are many."""
    size = min(40, max(13, 480 // len(names)))
    font = min(12, size - 2)
    margin = 16 + round(0.55 * font * max(map(len, names)))
    depths = [[math.sqrt(count / max(1, sum(row))) for count in row] for row in counts]
    return ConfusionChart(names, counts, depths, size, font, margin)


class DotRow(NamedTuple):
    """A row of a dot chart: its values, and where they and their mean lie."""

    name: str
    values: Sequence[float]
    places: list[float]
    mean: float


class DotChart(NamedTuple):
    """A line for each row, with a dot for each of its values and a bar at their mean."""

    rows: list[DotRow]
    axis: Axis
    step = 24
    width = 400


def dot_chart(rows: Mapping[str, Sequence[float]]) -> DotChart:
    """Rows of values over one axis."""
    values = {name: np.clip(row, -LARGEST, LARGEST) for name, row in rows.items()}
    left = 12 + 6.4 * min(32, max(map(len, rows)))
    axis = Axis(*_padded(*_ends(np.concatenate([*values.values()])), 0.06), left, DotChart.width)
    places = {name: axis.place(row) for name, row in values.items()}
    return DotChart(
        [DotRow(name, rows[name], x.tolist(), float(x.mean())) for name, x in places.items()], axis
    )
