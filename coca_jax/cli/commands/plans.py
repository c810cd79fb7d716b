"""The subcommands that measure a model or plan its training."""

import argparse
import functools
import sys

from coca_jax.cli.commands.configs import checked_config
from coca_jax.cli.options import require_compiler


def params(options: argparse.Namespace) -> None:
    """Prints the parameters and FLOPs of each part of the model."""
    from coca_jax.config import model_config
    from coca_jax.planning import forward_flops, parameter_counts, trained_count, training_flops
    from coca_jax.planning.flops import RULE

    config = checked_config(options, reads_data=False)
    model = model_config(config)
    counts, packing = parameter_counts(model), config.data.packing
    flops, training = forward_flops(model, packing=packing), training_flops(model, packing)
    lora, trained = config.lora, {}
    if lora.rank:
        trained = {"trained": trained_count(model, lora.rank, lora.layers, lora.full)}
    if options.json:
        from coca_jax.evaluate.results import write_json

        result = counts | {
            "total": sum(counts.values()),
            **trained,
            "flops_per_example": training,
            "forward_flops": flops,
            "rule": RULE,
        }
        write_json(result, options.json)
    print(f"{'part':<20}{'parameters':>16}{'forward GFLOP a pair':>24}")
    for part, count in counts.items():
        print(f"{part:<20}{count:>16,}{flops.get(part, 0) / 1e9:>24,.3f}")
    print(f"{'total':<20}{sum(counts.values()):>16,}{sum(flops.values()) / 1e9:>24,.3f}")
    for name, count in trained.items():
        share = count / sum(counts.values())
        print(f"{name:<20}{count:>16,}   {share:.1%}, by LoRA of rank {lora.rank}")
    print(f"\ntraining: {training / 1e9:,.3f} GFLOP a pair ({RULE})")


def plan(options: argparse.Namespace) -> None:
    """Compiles the train step for devices that need not be here; prints memory and time."""
    from coca_jax.planning.topologies import find_topology, prepare_environment

    prepare_environment()
    from coca_jax.planning.plan import format_kernels, format_plan, format_search
    from coca_jax.planning.plot import draw_memory, plot_format
    from coca_jax.planning.search import plan_or_advise, search

    if options.plot:
        plot_format(options.plot)  # refuses an unknown one before minutes are spent
    config = checked_config(options, reads_data=False)
    topology = find_topology(options.topology, options.slices)
    require_compiler(options, topology)
    report = functools.partial(print, file=sys.stderr, flush=True)
    doing = "compiling" if topology.compiles else "estimating"
    report(f"{doing} for {len(topology.devices):,} devices")
    if topology.missing:
        report(topology.missing)
    if options.search:
        plans = search(config, topology, report)
        best, shown = next(iter(plans)), f"{format_search(plans)}\n"
        written = plans[best] | {"choice": best, "search": plans}
    else:
        written = plan_or_advise(config, topology, options.hlo)
        plans, shown = {options.topology: written}, ""
    if options.json:
        from coca_jax.evaluate.results import write_json

        write_json(written, options.json)
    if options.plot:
        draw_memory(plans, options.plot)
    print(f"{shown}{format_plan(written)}")
    if options.kernels:
        print(f"\n{format_kernels(written, options.kernels)}")
