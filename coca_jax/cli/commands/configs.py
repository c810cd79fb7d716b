"""Loads the configuration or the model of a subcommand."""

import argparse


def raw_config(options: argparse.Namespace):
    """The configuration as the file and the overrides give it, not validated."""
    from coca_jax.config import load_config

    return load_config(options.config, options.overrides)


def checked_config(options: argparse.Namespace, reads_data: bool = True):
    """The configuration after all checks.

    Args:
      options: of the command.
      reads_data: whether the training data must be named.
    """
    from coca_jax.validation import validate

    config = raw_config(options)
    validate(config, reads=("train",) if reads_data else ())
    return config


def load_model(path: str):
    """The model at a path; programs compiled for it are kept on disk, as its configuration says."""
    from coca_jax.inference import find_checkpoint, load_from
    from coca_jax.train.compile_cache import use_compile_cache

    source = find_checkpoint(path)
    use_compile_cache(source.config.compile_cache, source.workdir)
    return load_from(source)
