"""The `coca` command: its arguments (`parser`) and its subcommands (`commands`)."""

import argparse
import os
import sys
import threading
from collections.abc import Sequence

from coca_jax.cli import failures, streams, switches
from coca_jax.cli.parser import make_parser
from coca_jax.errors import ExitCode

GRACE_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code, an `errors.ExitCode`."""
    streams.protect()
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if "subcommand" in options:
        options.command += f" {options.subcommand}"
    overrides = [word for word in rest if word.startswith("--config.")]
    if bare := [word for word in overrides if "=" not in word]:
        parser.error(f"{', '.join(bare)}: write --config.KEY=VALUE")
    if surplus := [word for word in rest if word not in overrides]:
        parser.error(f"unrecognized arguments: {' '.join(surplus)}")
    if overrides and "config" not in options:
        parser.error(f"{options.command} takes no --config")
    options.overrides = overrides
    for line in switches.overrule():
        print(f"coca {options.command}: {line}", file=sys.stderr)
    code = _run(options)
    if error := streams.failure():
        print(f"coca {options.command}: standard output: {error}", file=sys.stderr)
        # A command with a workdir has written its results there.
        if code == ExitCode.DONE and "workdir" not in options:
            code = ExitCode.USER_ERROR
    processes = sys.modules.get("coca_jax.distributed.processes")
    if processes and processes.is_distributed():
        processes.shutdown(code)
    return code


def run() -> int:
    """Runs `main`; after an error the process ends within `GRACE_SECONDS`.

    Threads of libraries could keep the interpreter for much longer, such as Orbax's that waits for
    the rest of a failed save.
    """
    code = main()
    if code:
        end = threading.Timer(GRACE_SECONDS, os._exit, (code,))
        end.daemon = True
        end.start()
    return code


def _run(options: argparse.Namespace) -> int:
    """Runs the subcommand and returns its exit code."""
    try:
        options.run(options)
    except BaseException as error:
        failure = failures.explain(error)
        if failure is None:
            raise
        print(f"coca {options.command}: {failure.message}", file=sys.stderr)
        return failure.code
    return ExitCode.DONE
