"""The subcommand that shows the packaged configurations."""

import argparse

from coca_jax.errors import UserError


def configs(options: argparse.Namespace) -> None:
    """Lists the packaged configurations, or prints the file of one."""
    from coca_jax.config import packaged
    from coca_jax.fields import near

    files = packaged.names()
    if options.name is None:
        width = max(map(len, files))
        for name, path in files.items():
            print(f"{name:{width}}  {packaged.summary(path)}")
    elif options.name in files:
        print(files[options.name].read_text(encoding="utf-8"), end="")
    else:
        raise UserError(
            f"there is no packaged configuration {options.name!r}{near(options.name, files)}"
        )
