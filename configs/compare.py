"""The paper's comparisons on built-in synthetic data: objectives, training, architecture.

    coca data prepare shapes
    coca compare --config compare --workdir runs/compare

Each row is pretrained on captions, then fine-tuned to answer questions, as in the ablations of
arXiv 2205.01917 (section 4.4). Costs are relative to the first row of a table. `:objectives`,
`:training` and `:architecture` select one table; `:smoke` runs a few steps of two rows.
"""

from ml_collections import ConfigDict

from coca_jax.config import load_config
from coca_jax.errors import UserError

TABLES = {
    "objectives": {
        "contrastive": (("pretraining.loss.captioning.weight", 0.0),),
        "sigmoid": (
            ("pretraining.loss.captioning.weight", 0.0),
            ("pretraining.loss.contrastive.kind", "sigmoid"),
            ("pretraining.loss.contrastive.initial_temperature", 0.1),
        ),
        "captioning": (("pretraining.loss.contrastive.weight", 0.0),),
        "coca": (),
    },
    "training": {
        "coca": (),
        "cosine": (("pretraining.optimizer.schedule", "cosine"),),
        "constant": (("pretraining.optimizer.schedule", "constant"),),
        "unclipped": (("pretraining.optimizer.clip_norm", 0.0),),
        "no_weight_decay": (("pretraining.optimizer.weight_decay", 0.0),),
        "no_warm-up": (("pretraining.optimizer.warmup_steps", 0),),
        "average": (("pretraining.optimizer.ema_decay", 0.99),),
        "weights_1-1": (("pretraining.loss.captioning.weight", 1.0),),
        "weights_1-2": (
            ("pretraining.loss.captioning.weight", 1.0),
            ("pretraining.loss.contrastive.weight", 2.0),
        ),
    },
    "architecture": {
        "coca": (),
        "unimodal_1_of_4": (
            ("model.text.unimodal_layers", 1),
            ("model.text.multimodal_layers", 3),
        ),
        "unimodal_3_of_4": (
            ("model.text.unimodal_layers", 3),
            ("model.text.multimodal_layers", 1),
        ),
        "parallel_pooler": (("model.pooler.kind", "parallel"),),
        "queries_0": (("model.pooler.caption_queries", 0),),
        "queries_1": (("model.pooler.caption_queries", 1),),
    },
}
METRICS = (
    ("zero-shot", "pretraining", "zero_shot/top1"),
    ("zero-shot, novel", "pretraining", "zero_shot_novel/top1"),
    ("image to text R@1", "pretraining", "retrieval/image_to_text_r1"),
    ("text to image R@1", "pretraining", "retrieval/text_to_image_r1"),
    ("CIDEr", "pretraining", "captioning/cider"),
    ("captions exact", "pretraining", "captioning/exact_match"),
    ("VQA", "questions", "vqa/accuracy"),
)
SMOKE = {
    "model.image.num_layers": 1,
    "model.image.width": 32,
    "model.text.width": 32,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "optimizer.warmup_steps": 2,
}


def get_config(argument=None):
    """The sweep; `argument` is None, a table's name, or `smoke`."""
    if argument not in (None, "", "smoke", *TABLES):
        names = ", ".join([*TABLES, "smoke"])
        raise UserError(f"configuration argument {argument!r} is not known; there is {names}")
    pretraining = load_config("shapes")
    questions = load_config("shapes_vqa")
    questions.optimizer.learning_rate = 1e-3
    questions.model.text.context_length = pretraining.model.text.context_length
    for config in (pretraining, questions):
        config.train.update({"steps": 500, "batch_size": 96})
        for evaluation in config.eval.values():
            evaluation.limit = min(evaluation.get("limit", 1000), 1000)
    pretraining.eval.captioning.limit = 200
    questions.eval = {"vqa": questions.eval.vqa}
    questions.loss.classification.weight = 0.0  # answers are written
    questions.head.classes = ()
    questions.init.path = "pretraining"  # the stage
    tables = {argument: TABLES[argument]} if argument in TABLES else TABLES
    seeds = (0, 1, 2)
    if argument == "smoke":
        tables = {
            "objectives": {name: TABLES["objectives"][name] for name in ("contrastive", "coca")}
        }
        seeds = (0, 1)
        for config in (pretraining, questions):
            config.update_from_flattened_dict(SMOKE)
            for evaluation in config.eval.values():
                evaluation.limit = 8
    return ConfigDict(
        {
            "seeds": seeds,
            "stages": {"pretraining": pretraining, "questions": questions},
            # Rows, because a section's keys have no order.
            "tables": tuple((title, tuple(table.items())) for title, table in tables.items()),
            "metrics": METRICS,
        }
    )
