"""Trains a small CoCa on scenes whose captions depend on word order, with matching by kind.

    coca data prepare shapes_relations
    coca train --config shapes_relations --workdir runs/relations

`matching` asks which of two texts of the same words is about the image: of relations, counts and
negations, by embeddings, by the decoder's probability of the texts, and by a matching head if there
is one. `:negatives` trains with the wrong captions that the data give, `:matching` with a matching
head, `:both` with both; `:smoke` runs a few steps of a smaller model with both.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_SMOKE, shapes_training

NAME = "shapes_relations"
KINDS = {"relation": "test", "relation_novel": "test_novel", "count": "test", "negation": "test"}


def get_config(argument=None):
    """The experiment; `argument` is None, `negatives`, `matching`, `both` or `smoke`."""
    config = shapes_training(steps=1500)
    config.data.train.name = NAME
    config.model.text.context_length = 18  # of the longest caption, begin and end included
    if argument in ("negatives", "both", "smoke"):
        config.data.train.negatives = "negatives"
    if has_head := argument in ("matching", "both", "smoke"):
        config.loss.matching.weight = 1.0
    examples = {"name": NAME, "split": "test"}
    config.eval = {
        "retrieval": {
            "kind": "retrieval",
            **examples,
            "limit": 1000,
            "captions": "first",
            "rerank": 16,
            "rerank_by": "matching" if has_head else "captions",
        },
        "captioning": {"kind": "captioning", **examples, "limit": 500},
    }
    for name, split in KINDS.items():
        kind = name.removesuffix("_novel")
        for scoring in ("embeddings", "captions", "matching")[: 2 + has_head]:
            config.eval[f"{name}_by_{scoring}"] = {
                "kind": "matching",
                "name": NAME,
                "split": split,
                "limit": 1000,
                "texts": (f"{kind}_texts", f"{kind}_foils"),
                "scoring": scoring,
            }
    smoke = SHAPES_SMOKE | {"loss.matching.block_size": 16}
    smoke |= {f"eval.{name}.limit": 16 for name in config.eval}
    return finish(config, argument, smoke, ("negatives", "matching", "both"))
