"""One self-contained HTML page about a run: numbers, curves, samples, configuration."""

from coca_jax.observe.report.page import write_report

__all__ = ["write_report"]
