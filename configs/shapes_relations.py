"""Trains a small CoCa on scenes whose captions depend on word order, with matching by kind.

    coca data prepare shapes_relations
    coca train --config shapes_relations --workdir runs/relations

`matching` asks which of two texts of the same words is about the image: of relations, counts and
negations, by embeddings and by the decoder's probability of the texts. `:negatives` trains
with the wrong captions that the data give, `:matching` with a matching head; `:smoke` runs a few
steps of a smaller model.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_SMOKE, shapes_training

NAME = "shapes_relations"


def get_config(argument=None):
    """The experiment; `argument` is None, `negatives`, `matching` or `smoke`."""
    config = shapes_training(steps=1500)
    config.data.train.name = NAME
    if argument == "negatives":
        config.data.train.negatives, argument = "negatives", None
    elif argument == "matching":
        config.loss.matching.weight, argument = 1.0, None
    config.model.text.context_length = 18  # of the longest caption, begin and end included
    config.eval = {
        "retrieval": {
            "kind": "retrieval",
            "name": NAME,
            "split": "test",
            "limit": 1000,
            "captions": "first",
        },
        "captioning": {"kind": "captioning", "name": NAME, "split": "test", "limit": 500},
    }
    kinds = {
        "relation": "test",
        "relation_novel": "test_novel",
        "count": "test",
        "negation": "test",
    }
    for name, split in kinds.items():
        kind = name.removesuffix("_novel")
        for scoring in ("embeddings", "captions"):
            config.eval[f"{name}_by_{scoring}"] = {
                "kind": "matching",
                "name": NAME,
                "split": split,
                "limit": 1000,
                "texts": (f"{kind}_texts", f"{kind}_foils"),
                "scoring": scoring,
            }
    return finish(config, argument, SHAPES_SMOKE | {f"eval.{n}.limit": 16 for n in config.eval})
