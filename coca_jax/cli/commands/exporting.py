"""The subcommand that exports a model for use without coca_jax."""

import argparse
import sys

from coca_jax.io.messages import counted


def export(options: argparse.Namespace) -> None:
    """Writes a model's functions as StableHLO or ONNX."""
    from coca_jax.export import export_model, require_settings, require_writable

    platforms = None if options.platforms is None else options.platforms.split(",")
    require_writable(options.output, options.format)  # fails now rather than after loading a model
    require_settings(options.format, options.dtype, platforms)
    from coca_jax.inference import load

    model = load(options.model)
    description = export_model(model, options.output, options.format, options.dtype, platforms)
    for loss, function in (("contrastive", "text_encoder"), ("captioning", "decoder")):
        if function not in description["functions"]:
            print(
                f"the model was trained without the {loss} loss and has no {function}",
                file=sys.stderr,
            )
    functions = description["functions"]
    weights = {name for function in functions.values() for name in function["weights"]}
    print(f"{options.output}: {', '.join(functions)}; {counted(len(weights), 'weights')}")
