"""The subcommands, one short function each."""
