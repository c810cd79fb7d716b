"""Where the run's wall time went: a bar by kind, and a table."""

from coca_jax.observe.goodput import totals
from coca_jax.observe.report.run import Run
from coca_jax.observe.report.text import esc, section

# Kind, its name and its colour, in the order of the bar.
KINDS = {
    "step": ("steps that count", "#2f7d5b"),
    "lost": ("steps lost to a restart", "#b3403a"),
    "start": ("start-up", "#8a6fb0"),
    "compile": ("compiling", "#c98a2b"),
    "data": ("waiting for data", "#3b78a8"),
    "checkpoint": ("checkpoints", "#7a7f87"),
    "evaluation": ("evaluation", "#5aa7a7"),
}


def wall_time(run: Run) -> str:
    """Draws the shares of all attempts together; nothing for a run that kept no ledger."""
    if not run.attempts:
        return ""
    found = totals(run.attempts)
    wall = max(found["wall_seconds"], 1e-9)
    shares = {kind: found[f"{kind}_seconds"] / wall for kind in KINDS}
    bar = "".join(
        f'<i style="width:{share:.2%};background:{KINDS[kind][1]}"></i>'
        for kind, share in shares.items()
    )
    rows = "".join(
        f'<tr><td><i class="swatch" style="background:{KINDS[kind][1]}"></i>'
        f"{esc(KINDS[kind][0])}</td><td>{_spelled(share * wall)}</td><td>{share:.1%}</td></tr>"
        for kind, share in shares.items()
    )
    attempts = len(run.attempts)
    lead = f"{_spelled(wall)} in {attempts} attempt{'s' * (attempts > 1)}"
    if found["away_seconds"] >= 1:
        lead += f", and {_spelled(found['away_seconds'])} between them when nothing ran"
    body = f'<div class="stack">{bar}</div><table>{rows}</table>'
    return section(f"Goodput {found['share']:.1%}", f"{lead}.", f'<div class="card">{body}</div>')


def _spelled(seconds: float) -> str:
    """Seconds in the two largest units that they fill."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
