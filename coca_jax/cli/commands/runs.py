"""The subcommands of runs and sweeps."""

import argparse
import time

from coca_jax.cli.commands.configs import raw_config
from coca_jax.errors import UserError

START_TIME = time.time()  # this process, but for its interpreter


def train(options: argparse.Namespace) -> None:
    """Trains a model, or resumes the run in the workdir."""
    config = raw_config(options)
    _join(config)
    from coca_jax.train.loop import train

    train(config, options.workdir, START_TIME)


def compare(options: argparse.Namespace) -> None:
    """Trains the rows of a sweep's tables with each seed, prints and draws the tables."""
    config = raw_config(options)
    if "stages" not in config:
        raise UserError(
            f"{options.config} is not a sweep: it has no stages (see configs/compare.py)"
        )
    from coca_jax.sweep.compare import compare
    from coca_jax.sweep.validation import structure_errors

    if errors := structure_errors(config):
        raise UserError("\n".join(errors))
    _join(next(iter(config.stages.values())), config)
    import jax

    from coca_jax.distributed import processes
    from coca_jax.io.paths import as_path
    from coca_jax.observe.report.sweep import format_sweep

    processes.assert_same_on_all("options", {"shard": list(options.shard)})
    comparison = compare(config, options.workdir, START_TIME, options.shard)
    if jax.process_index() == 0:
        page = as_path(options.workdir) / "report.html"
        print(f"{format_sweep(comparison.results)}\n{page}")
    comparison.raise_failures()


def evaluate(options: argparse.Namespace) -> None:
    """Restores a checkpoint, runs the configuration's evaluations and prints a table."""
    config = raw_config(options)
    _join(config)
    import jax

    from coca_jax.config import to_json
    from coca_jax.evaluate.results import format_table, write_results
    from coca_jax.evaluate.runner import evaluate, require_runnable
    from coca_jax.inference import find_checkpoint, load_from
    from coca_jax.train.compile_cache import use_compile_cache
    from coca_jax.validation import validate

    validate(config)
    if not config.eval:
        raise UserError(f"config.eval of {options.config} names no evaluation")
    source = find_checkpoint(options.workdir, options.step)
    use_compile_cache(config.compile_cache, source.workdir)
    model = load_from(source, devices=jax.devices())
    require_runnable(config, model.config)
    validate(config, reads=("eval",))
    results = evaluate(model, config)
    if results.metrics and jax.process_index() == 0:
        path = write_results(
            *(source.workdir, model.step, results.metrics, results.artifacts), to_json(config.eval)
        )
        print(f"{format_table(results.metrics)}\n{path}")
    results.raise_failures()


def report(options: argparse.Namespace) -> None:
    """Writes `report.html` of a run or a sweep."""
    from coca_jax.checkpoints.best import Best
    from coca_jax.checkpoints.metadata import newest, require_files, whole_steps
    from coca_jax.config.record import stored_config
    from coca_jax.io.paths import as_path
    from coca_jax.observe.report import write_report

    workdir = as_path(options.workdir)
    saved, facts = newest(workdir / "checkpoints"), {}
    if saved:
        require_files(workdir, saved)
        config = stored_config(workdir, *saved)  # restores a config.json that is damaged
        best = Best.of(workdir, config)
        if best and (step := best.step(whole_steps(workdir / "checkpoints"))) is not None:
            facts["best checkpoint"] = best.described(step)
    print(write_report(workdir, saved and saved.metadata.get("config"), facts))


def _join(config, whole=None) -> None:
    """Joins the other processes of this run, if there are any, which must have the same config.

    Args:
      config: an experiment; its `distributed` section says how long to wait.
      whole: the configuration that must be the same, if it is another one.
    """
    from coca_jax.accelerators import prepare_environment
    from coca_jax.config import to_json
    from coca_jax.config.checks import key_errors
    from coca_jax.distributed import processes
    from coca_jax.validation import validate

    prepare_environment()
    if key_errors(config):
        validate(config)  # raises an error with these and all others
    processes.start(config.distributed.start_seconds, config.distributed.heartbeat_seconds)
    processes.assert_same_on_all("config", to_json(config if whole is None else whole))
