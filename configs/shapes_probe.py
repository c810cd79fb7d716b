"""Evaluates a run of `shapes` by probes: classifiers on its frozen image encoder.

coca evaluate --config shapes_probe --workdir runs/shapes
"""

from coca_jax.config import load_config


def get_config(argument=None):
    """That experiment with other evaluations; `argument` is None or `smoke`."""
    config = load_config(f"shapes:{argument or ''}")
    data = {"kind": "probe", "name": "shapes", "train_split": "train", "split": "test"}
    config.eval = {"linear": data, "pooler": {**data, "scoring": "pooler", "steps": 600}}
    if argument == "smoke":
        for evaluation in config.eval.values():
            evaluation.update({"limit": 64, "train_limit": 64, "steps": 10})
    return config
