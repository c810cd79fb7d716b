"""Fine-tunes a run of `shapes` on questions: answers are generated and chosen.

    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_vqa --workdir runs/vqa

The decoder learns to generate the answer after the question, and a head on its outputs to choose it
among all answers; an eighth of the images are trained with captions. There is no contrastive loss.
`:smoke` runs a few steps of a smaller model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning, with_head

ANSWERS = (
    *("red", "orange", "yellow", "green", "cyan", "blue", "pink", "black"),
    *("circle", "square", "triangle", "diamond", "cross", "star", "ring", "crescent"),
    *("small", "large", "top left", "top right", "bottom left", "bottom right"),
    *("one", "two", "three", "yes", "no"),
)


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = shapes_finetuning(steps=1900, batch_size=32, learning_rate=4e-4)
    config.model.text.context_length = 20  # for any question with answer; cuts 1% of the captions
    with_head(config, "text", ANSWERS)
    config.loss.captioning.weight = 1.0
    config.data.sources = {
        "questions": {"weight": 7.0, "captions": "questions"},
        "captions": {"weight": 1.0, "use_labels": False},
    }
    test, novel = (
        {"kind": "vqa", "name": "shapes", "split": split, "limit": 200}
        for split in ("test", "test_novel")
    )
    config.eval = {
        "vqa": test,
        "vqa_novel": novel,
        "vqa_head": test | {"scoring": "head"},
        "vqa_head_novel": novel | {"scoring": "head"},
        "vqa_candidates": test | {"scoring": "candidates", "limit": 50},
    }
    smoke = {f"eval.{name}.limit": 4 for name in config.eval}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke)
