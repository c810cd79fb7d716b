"""Fine-tunes a run of `shapes_vqa` on captions that depend on word order, with matching by kind.

    coca data prepare shapes
    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_vqa --workdir runs/vqa
    coca data prepare shapes_relations
    coca train --config shapes_relations --workdir runs/relations

The run of `shapes_vqa` knows where shapes are, which takes many more steps to learn from captions.
It has no contrastive loss: what makes embeddings of its features, and the temperature, begin anew.
`matching` asks which of two texts of the same words is about the image: of relations, counts and
negations, by embeddings, by the decoder's probability of the texts, and by a matching head if there
is one. `:negatives` trains with the wrong captions that the data give, `:matching` with a matching
head, `:both` with both; `:smoke` runs a few steps of a smaller model with both.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning

NAME = "shapes_relations"
KINDS = {"relation": "test", "relation_novel": "test_novel", "count": "test", "negation": "test"}


def get_config(argument=None):
    """The experiment; `argument` is None, `negatives`, `matching`, `both` or `smoke`."""
    config = shapes_finetuning(steps=3000, batch_size=32, learning_rate=1e-3)
    config.init.path = "runs/vqa"
    config.data.tokenizer.path = "runs/vqa/tokenizer.model"
    config.data.train.name = NAME
    # It cuts none of 1,000 captions, by `coca data inspect`.
    config.model.text.context_length = 32
    if argument in ("negatives", "both", "smoke"):
        config.data.train.negatives = "negatives"
    if has_head := argument in ("matching", "both", "smoke"):
        config.loss.matching.weight = 1.0
    examples = {"name": NAME, "split": "test"}
    config.eval = {
        "retrieval": {
            "kind": "retrieval",
            **examples,
            "limit": 500,
            "captions": "first",
            "rerank": 16,
            "rerank_by": "matching" if has_head else "captions",
        },
        "captioning": {"kind": "captioning", **examples, "limit": 200},
    }
    for name, split in KINDS.items():
        kind = name.removesuffix("_novel")
        for scoring in ("embeddings", "captions", "matching")[: 2 + has_head]:
            config.eval[f"{name}_by_{scoring}"] = {
                "kind": "matching",
                "name": NAME,
                "split": split,
                "limit": 500,
                "texts": (f"{kind}_texts", f"{kind}_foils"),
                "scoring": scoring,
            }
    smoke = SHAPES_TASK_SMOKE | {"loss.matching.block_size": 16}
    smoke |= {f"eval.{name}.limit": 16 for name in config.eval}
    return finish(config, argument, smoke, ("negatives", "matching", "both"))
