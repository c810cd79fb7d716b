"""Fine-tunes a run of coca_base on VQAv2 as in the paper, with 3,129 answers as classes.

    coca data convert-annotations v2_OpenEnded_mscoco_train2014_questions.json \
        v2_mscoco_train2014_annotations.json data/vqav2/train.jsonl --images train2014
    coca data convert-annotations v2_OpenEnded_mscoco_val2014_questions.json \
        v2_mscoco_val2014_annotations.json data/vqav2/val.jsonl --images val2014
    coca data answer-vocab data/vqav2/train.jsonl data/vqav2/val.jsonl data/vqav2/answers.txt
    coca train --config vqav2 --workdir runs/vqav2

One query pools the decoder's outputs for the question. Each step draws one of the ten answers, so
that the expected target of an answer is the share of people who gave it. `loss.captioning.weight`
above 0 also teaches the decoder to generate it. The paper reports 82.3% (2.1B parameters). `:smoke`
runs a few steps on `shapes`.
"""

from coca_jax.config.recipes import finetuning, finish_on_shapes, with_head


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = finetuning("base", 100_000, 64, learning_rate=5e-4, encoder=2e-5, decay=0.1)
    with_head(config, "text", ())
    config.head.class_file = "data/vqav2/answers.txt"
    config.data.train.update({"path": "data/vqav2/train.jsonl", "captions": "questions"})
    config.eval = {
        "vqa": {
            "kind": "vqa",
            "scoring": "head",
            "format": "folder",
            "path": "data/vqav2/val.jsonl",
        }
    }
    return finish_on_shapes(config, argument, classes=("yes", "no"))
