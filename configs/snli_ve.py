"""Fine-tunes a run of coca_base on SNLI-VE (visual entailment) as in the paper.

    coca data convert-annotations snli_ve_train.jsonl data/snli_ve/train.jsonl \
        --images flickr30k-images
    coca data convert-annotations snli_ve_dev.jsonl data/snli_ve/dev.jsonl --images flickr30k-images
    coca train --config snli_ve --workdir runs/snli_ve

One query pools the decoder's outputs for the hypothesis. The weight decay is our choice; the paper
gives none for this task. It reports 87.0% on dev (2.1B parameters). `:smoke` runs a few steps on
`shapes`.
"""

from coca_jax.config.recipes import finetuning, finish_on_shapes, with_head

FIELDS = ("hypotheses", "judgements")


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = finetuning("base", 50_000, 128, learning_rate=1e-3, encoder=5e-5, decay=0.1)
    with_head(config, "text", ("entailment", "neutral", "contradiction"))
    config.data.train.update(
        {"path": "data/snli_ve/train.jsonl", "captions": "questions", "questions": FIELDS}
    )
    config.eval = {
        "dev": {
            "kind": "classification",
            "format": "folder",
            "path": "data/snli_ve/dev.jsonl",
            "questions": FIELDS,
        }
    }
    return finish_on_shapes(config, argument)
