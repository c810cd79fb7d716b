"""Small pieces of HTML that the report's sections share."""

import base64
import datetime
import html
import math
import os
from typing import Any

from etils import epath

from coca_jax.io.files import read_bytes
from coca_jax.io.stored import left_out
from coca_jax.io.visible import visible
from coca_jax.observe.report.style import CSS


def esc(text: Any) -> str:
    """Returns the text with HTML's special characters escaped, and without invisible ones."""
    return html.escape(visible(str(text)))


def label(name: str) -> str:
    """Returns a metric's or key's name in words."""
    return esc(name.removeprefix("train/").replace("_", " ").replace("/", ": "))


def number(value: float | int) -> str:
    """Returns a number in about four digits, with thousands separators if it is large."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    is_whole = float(value).is_integer() and size != 1  # a 1 is more often a share than a count
    if is_whole or size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 1e-3:
        text = f"{value:.4f}" if size < 10 else f"{value:.1f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def section(title: str, lead: str, body: str) -> str:
    """Returns a section with a heading and a line on what it shows."""
    return f'<section><h2>{esc(title)}</h2><p class="lead">{esc(lead)}</p>{body}</section>'


def table(rows: dict[str, str]) -> str:
    """Returns a table of two columns; keys and values are HTML."""
    body = "".join(f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in rows.items())
    return f"<table>{body}</table>"


def image(folder: epath.Path, file: str, text: str) -> str:
    """Returns an image element that holds the JPEG file."""
    return f'<img alt="{esc(text)}" src="{image_url(folder, file)}">'


def image_url(folder: epath.Path, file: str) -> str:
    """Returns the JPEG file as an address that holds it; an empty one if it has gone."""
    try:
        content = read_bytes(folder / os.path.basename(file))
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        left_out(folder / "artefacts.json", f"names an image that cannot be read: {error}")
        return "data:,"
    data = base64.b64encode(content).decode()
    return f"data:image/jpeg;base64,{data}"


def today() -> str:
    """Returns the date and time, to the minute."""
    return datetime.datetime.now().strftime("%-d %B %Y, %H:%M")


def page(title: str, body: str) -> str:
    """Returns a whole page, which needs nothing but itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)} · coca_jax</title><style>{CSS}</style></head><body><main>{body}"
        f'<footer class="muted">Written by coca_jax on {today()}.</footer></main></body></html>'
    )
