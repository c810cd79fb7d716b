"""Says how many inputs each test had, if more than the usual ones were asked for."""

from fuzz.running import COUNTS, SECONDS


def pytest_terminal_summary(terminalreporter):
    if SECONDS:
        for name, count in COUNTS.items():
            terminalreporter.write_line(f"{name}: {count:,} inputs")
