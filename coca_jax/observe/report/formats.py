"""Names, numbers and times as the report's pages show them."""

import math


def label(name: str) -> str:
    """A metric's or key's name in words."""
    return words(name.removeprefix("train/").replace("/", ": "))


def words(name: str) -> str:
    """A name that a person chose, in words; ViT-B/16 stays what it is."""
    return name.replace("_", " ")


def heading(text: str) -> str:
    """A text with a large first letter; the others, as in LoRA, stay what they are."""
    return text[:1].upper() + text[1:]


def number(value: float | int) -> str:
    """A number in about four digits, with thousands separators if it is large."""
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


def duration(seconds: float) -> str:
    """Seconds in words, in their two largest units: `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
