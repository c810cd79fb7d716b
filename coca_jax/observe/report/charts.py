"""Pictures for the report, as inline SVG in the page's own colours, light or dark."""

import io
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from coca_jax.observe.report.text import esc

COLOURS = 6
"""Lines of a chart get the page's colours --line-0 to --line-5 in turn."""
BUCKETS = 80

# Matplotlib wants colours, not CSS: these stand for the page's and are replaced in its output.
_LINES = [f"#0000f{i}" for i in range(COLOURS)]
_MUTED, _HAIR = "#0000e0", "#0000e1"
_CSS = {colour: f"var(--line-{i})" for i, colour in enumerate(_LINES)} | {
    _MUTED: "var(--muted)",
    _HAIR: "var(--hair)",
}

Line = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]
"""The x values, ascending, and the y values of a line; NaN leaves a gap."""


def line_chart(lines: Sequence[Line], x_label: str, log: bool = False) -> str:
    """Draws lines over one x axis; a long one as means of buckets within their range.

    Args:
      lines: in the order of the colours.
      x_label: what x counts.
      log: whether y may be logarithmic; it is where positive values span a factor of 50.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for i, (x, y) in enumerate(lines):
            centre, mean, low, high = bucket_means(x, y)
            marker = "o" if len(x) < 12 else None
            colour = _LINES[i % COLOURS]
            axes.fill_between(centre, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(centre, mean, color=colour, linewidth=1.5, marker=marker, markersize=3)
        if log and _spans_decades([y for _, y in lines]):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(x_label, color=_MUTED)
        axes.grid(axis="y", color=_HAIR, linewidth=0.8)
        axes.tick_params(which="both", colors=_MUTED, length=0)
        axes.spines[:].set_visible(False)
        axes.set_axisbelow(True)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue())


def bucket_means(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], buckets: int = BUCKETS
) -> tuple[Float[np.ndarray, "m"], ...]:
    """Returns x, mean, minimum and maximum of at most `buckets` runs of neighbours.

    Values that are not finite are left out; a bucket with nothing else is NaN.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    parts = np.array_split(np.arange(len(y)), min(buckets, len(y)))
    rows = [(x[p].mean(), *_summary(y[p][~np.isnan(y[p])])) for p in parts]
    return tuple(np.array(rows, float).reshape(-1, 4).T)


def _summary(values: Float[np.ndarray, "n"]) -> tuple[float, float, float]:
    if not len(values):
        return math.nan, math.nan, math.nan
    return float(values.mean()), float(values.min()), float(values.max())


def _spans_decades(lines: Sequence[Float[np.ndarray, "_"]]) -> bool:
    values = np.concatenate(lines)
    values = values[np.isfinite(values)]
    return len(values) > 0 and bool(values.min() > 0 and values.max() / values.min() > 50)


def _inline(svg: str) -> str:
    """Returns the <svg> element alone, sized by the page, with the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    return svg


def confusion_chart(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Draws one square for each label (row) and prediction (column), deep where its share is large.

    The depth is the root of the share of the row, so that rare mistakes can be seen.
    """
    size = min(40, max(13, 480 // len(names)))
    font = min(12, size - 2)
    margin = 16 + round(0.55 * font * max(map(len, names)))
    extent = margin + size * len(names)
    parts = []
    for row, (label, line) in enumerate(zip(names, counts, strict=True)):
        middle, text = margin + size * (row + 0.5), esc(label)
        parts.append(f'<text x="{margin - 6}" y="{middle}" text-anchor="end">{text}</text>')
        turned = f"translate({middle} {margin - 6}) rotate(-90)"
        parts.append(f'<text transform="{turned}">{text}</text>')
        for column, (prediction, count) in enumerate(zip(names, line, strict=True)):
            tip = esc(f"{label} taken for {prediction}: {count} of {sum(line)}")
            x, y = margin + size * column, margin + size * row
            shade = f"--depth:{math.sqrt(count / max(1, sum(line))):.2f}"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" rx="2" '
                f'class="{"right" if row == column else "wrong"}" style="{shade}">'
                f"<title>{tip}</title></rect>"
            )
    return (
        f'<svg class="confusion" viewBox="0 0 {extent} {extent}" style="max-width:{extent}px" '
        f'font-size="{font}" dominant-baseline="central">{"".join(parts)}</svg>'
    )


def dot_chart(rows: Mapping[str, Sequence[float]]) -> str:
    """Draws a line for each row, with a dot for each of its values and a bar at their mean."""
    everything = [value for values in rows.values() for value in values]
    low, high = min(everything), max(everything)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - pad, high + pad
    left, width, step = 132, 400, 24
    bottom = step * len(rows) + 6

    def place(value: float) -> float:
        return left + (width - left) * (value - low) / (high - low)

    parts = []
    for number, (name, values) in enumerate(rows.items()):
        y, mean = step * (number + 0.5), place(sum(values) / len(values))
        text = esc(name.replace("_", " "))
        tip = esc(", ".join(f"{value:.4f}" for value in values))
        parts.append(f'<text x="{left - 10}" y="{y}" text-anchor="end">{text}</text>')
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y}" y2="{y}"/>')
        ends = f'x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 8}" y2="{y + 8}"'
        parts.append(f'<line class="mean" {ends}/>')
        parts += [f'<circle cx="{place(value):.1f}" cy="{y}" r="4"/>' for value in values]
        parts.append(f'<rect x="0" y="{y - 12}" width="{width}" height="{step}" fill-opacity="0">')
        parts.append(f"<title>{text}: {tip}</title></rect>")
    for value, anchor in ((low, "start"), (high, "end")):
        x = left if anchor == "start" else width
        parts.append(f'<text x="{x}" y="{bottom + 6}" text-anchor="{anchor}">{value:.3g}</text>')
    return (
        f'<svg class="dots" viewBox="0 0 {width} {bottom + 16}" font-size="11.5" '
        f'dominant-baseline="central">{"".join(parts)}</svg>'
    )
