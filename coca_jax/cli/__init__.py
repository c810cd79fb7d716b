"""The `coca` command: what it is given (`parser`) and what each subcommand does (`commands`)."""

import argparse
import sys
from collections.abc import Sequence

from coca_jax.cli.parser import make_parser
from coca_jax.errors import Incomplete, Preempted, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code.

    0: done, 2: a user's mistake, 3: preempted, 5: done, but some inputs could not be used.
    """
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    overrides = [word for word in rest if word.startswith("--config.")]
    if surplus := [word for word in rest if word not in overrides]:
        parser.error(f"unrecognised arguments: {' '.join(surplus)}")
    if overrides and "config" not in options:
        parser.error(f"{options.command} takes no --config")
    options.overrides = overrides
    code = _run(options)
    if options.command in ("train", "evaluate"):
        from coca_jax.parallel import processes

        if processes.joined():
            processes.leave(code)
    return code


def _run(options: argparse.Namespace) -> int:
    """Runs the subcommand; its exit code."""
    try:
        options.run(options)
    except UserError as error:
        print(f"coca {options.command}: {error}", file=sys.stderr)
        return 2
    except Preempted as error:
        print(f"coca {options.command}: {error}; run it again to go on", file=sys.stderr)
        return 3
    except Incomplete as error:
        print(f"coca {options.command}: {error}", file=sys.stderr)
        return 5
    except OSError as error:
        print(f"coca {options.command}: {error}", file=sys.stderr)
        return 2
    return 0
