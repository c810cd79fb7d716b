"""The subcommand that examines the machine and the environment."""

import argparse
import json

from coca_jax.errors import UserError


def doctor(options: argparse.Namespace) -> None:
    """Prints how everything is that coca_jax needs, and how to fix what is broken."""
    from coca_jax.doctor import State, examine
    from coca_jax.io.files import write_whole

    findings = examine(options.folder)
    width = max(len(finding.name) for finding in findings)
    for name, state, text, fix in findings:
        print(f"{state:<7}  {name:<{width}}  {text}")
        if fix and state != State.OK:
            print(f"{'':<7}  {'':<{width}}  -> {fix}")
    if options.json:
        rows = [finding._asdict() for finding in findings]
        write_whole(options.json, json.dumps({"findings": rows}, indent=1).encode())
    if broken := [finding.name for finding in findings if finding.state == State.PROBLEM]:
        raise UserError(f"something is broken: {', '.join(broken)}")
