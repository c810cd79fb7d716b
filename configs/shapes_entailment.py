"""Fine-tunes a run of `shapes` on visual entailment, as in SNLI-VE.

    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_entailment --workdir runs/entailment

A head on the decoder's outputs says whether a hypothesis follows from the image, contradicts it, or
neither. The decoder also learns captions, and the judgments as texts. `:smoke` runs a few steps of
a smaller model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning, with_head

FIELDS = ("hypotheses", "judgements")


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = shapes_finetuning(steps=1500, batch_size=32, learning_rate=3e-4)
    with_head(config, "text", ("entailment", "neutral", "contradiction"))
    config.loss.captioning.weight = 1.0  # without it, learning took thousands of steps
    config.data.sources = {
        "entailments": {"weight": 3.0, "captions": "questions", "questions": FIELDS},
        "captions": {"weight": 1.0, "use_labels": False},
    }
    config.eval = {
        split.replace("test", "entailment"): {
            "kind": "classification",
            "name": "shapes",
            "split": split,
            "questions": FIELDS,
        }
        for split in ("test", "test_novel")
    }
    smoke = {f"eval.{name}.limit": 8 for name in config.eval}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke)
