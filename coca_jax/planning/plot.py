"""A plot of what fills a device's memory."""

import io
import os
from collections.abc import Mapping

from coca_jax.errors import UserError
from coca_jax.io.files import write_whole
from coca_jax.planning.chips import GIB

COLORS = ("#4269d0", "#efb118", "#6cc5b0", "#3ca951", "#ff725c", "#9c9c9c")


def plot_format(path: str | os.PathLike) -> str:
    """The format that a plot's suffix asks for; PNG without one.

    Raises:
      UserError: there is no such format.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kind, kinds = os.path.splitext(path)[1][1:].lower(), FigureCanvasBase.get_supported_filetypes()
    if kind and kind not in kinds:
        raise UserError(f"{path} should end in one of .{', .'.join(sorted(kinds))}")
    return kind or "png"


def draw_memory(plans: Mapping[str, Mapping], path: str | os.PathLike) -> None:
    """Draws a bar for each plan, in parts, and the limit as a line.

    Args:
      plans: results of `plan`, by name.
      path: of the plot; its suffix says which format it has.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 + 0.5 * len(plans)), layout="constrained")
    axes = figure.subplots()
    names, parts = list(plans), list(next(iter(plans.values()))["bytes_by_part"])
    start = [0.0] * len(names)
    for part, color in zip(parts, COLORS, strict=False):
        sizes = [plans[name]["bytes_by_part"][part] / GIB for name in names]
        if any(sizes):
            axes.barh(names, sizes, left=start, color=color, label=part, height=0.6)
        start = [a + b for a, b in zip(start, sizes, strict=True)]
    limit = max(plan["bytes_per_chip"]["limit"] for plan in plans.values()) / GIB
    axes.axvline(limit, color="black", linestyle="--")
    axes.set(xlabel="GiB a device; dashed: the limit", xlim=(0, limit * 1.02))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(parts), frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=plot_format(path), dpi=150)
    write_whole(path, drawn.getvalue())
