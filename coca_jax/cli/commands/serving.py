"""The subcommand that serves a model over HTTP."""

import argparse
import functools
import os
import sys
from typing import Any

from coca_jax.cli.commands.configs import load_model
from coca_jax.cli.commands.indexing import require_local, updated_index
from coca_jax.errors import UserError
from coca_jax.io.messages import counted


def serve(options: argparse.Namespace) -> None:
    """Serves a model over HTTP, with a page to try it."""
    from coca_jax.serve import require_packages

    require_packages()
    from coca_jax.serve.limits import Limits
    from coca_jax.serve.server import bind, run
    from coca_jax.serve.service import Served, Service

    if options.index and not options.images:
        raise UserError("--index is the place of the index of --images DIR, which is missing")
    require_local(options.images, options.index)
    limits = Limits(
        max_batch=options.max_batch,
        max_latency=options.max_latency_ms / 1000,
        queue=options.queue,
        max_bytes=options.max_bytes,
        max_pixels=options.max_pixels,
        allow_urls=options.allow_urls,
    )
    report = functools.partial(print, file=sys.stderr, flush=True)
    with bind(options.host, options.port) as opened:  # fails now rather than after loading a model
        model = load_model(options.model)
        index = _index(options, model, report) if options.images else None
        name = os.path.basename(os.path.abspath(options.model))
        served = Served(model, name, _writes_answers(model.source.config), index)
        service = Service(served, limits)
        service.warm_up(report)
        run(service, opened)


def _writes_answers(config: Any) -> bool:
    """Whether a run was trained on questions that are followed by their answers."""
    sources = [config.data.train, *config.data.sources.values()]
    return any(source.get("captions") == "questions" for source in sources)


def _index(options: argparse.Namespace, model: Any, report: Any) -> Any:
    """The index of the folder's images, brought up to date."""
    place, index, _ = updated_index(options, model)
    left_out = f"; {counted(len(index.unreadable), 'files')} left out" if index.unreadable else ""
    report(f"{place}: {counted(len(index), 'images')}{left_out}")
    return index
