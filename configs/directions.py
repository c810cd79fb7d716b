"""Where CoCa could go: what better contrast, better fusion and less compute bring, and cost.

    coca data prepare shapes
    coca data prepare shapes_relations
    coca compare --config directions --workdir runs/directions

Each row is CoCa with one setting, or several, that are off by default. The first table gives all
rows the same steps; the second one gives each as many steps as the first row's FLOPs are enough
for. The data are scenes whose captions depend on word order, so that there is room to improve.
`:emoji` and `:fashion_mnist` compare on drawings and photographs that people made, `:smoke` runs a
few steps of two rows. docs/outline.md has the source of each setting.
"""

from ml_collections import ConfigDict

from coca_jax.config import load_config, model_config
from coca_jax.errors import UserError
from coca_jax.planning import training_flops

MATCHING = (("pretraining.loss.matching.weight", 1.0),)
BY_MATCHING = (("pretraining.eval.retrieval.rerank_by", "matching"),)
NEGATIVES = (("pretraining.data.train.negatives", "negatives"),)
PATCHES = (("pretraining.model.image.patch_dropout", 0.5),)
ROWS = {
    "coca": (),
    "groups": (("pretraining.data.train.group", "caption"),),
    "negatives": NEGATIVES,
    "matching": MATCHING + BY_MATCHING,
    "negatives_and_matching": NEGATIVES + MATCHING + BY_MATCHING,
    "cross-attention_every_2": (("model.text.cross_attention_every", 2),),
    "half_of_the_patches": PATCHES,
    "packed": (
        ("pretraining.data.packing.texts_per_row", 4),
        ("pretraining.data.packing.row_length", 44),
    ),
}
# Rows that other data sets can have: a label is the only text of a photograph of clothes.
OF_OTHERS = {
    "emoji": ("coca", "groups", "matching", "half_of_the_patches"),
    "fashion_mnist": ("coca", "groups", "half_of_the_patches"),
}
CHANGED = {  # in those rows
    "emoji": {},
    "fashion_mnist": {"groups": (("pretraining.data.train.group", "label"),)},
}
RETRIEVAL = (
    ("image to text R@1", "pretraining", "retrieval/image_to_text_r1"),
    ("text to image R@1", "pretraining", "retrieval/text_to_image_r1"),
    ("re-ranked i2t R@1", "pretraining", "retrieval/reranked_image_to_text_r1"),
    ("re-ranked t2i R@1", "pretraining", "retrieval/reranked_text_to_image_r1"),
)
METRICS = (
    ("relations", "pretraining", "relation_by_embeddings/accuracy"),
    ("held-out relations", "pretraining", "relation_novel_by_embeddings/accuracy"),
    ("counts", "pretraining", "count_by_embeddings/accuracy"),
    ("negations", "pretraining", "negation_by_embeddings/accuracy"),
    ("relations by captions", "pretraining", "relation_by_captions/accuracy"),
    ("relations by the head", "pretraining", "relation_by_matching/accuracy"),
    ("zero-shot", "pretraining", "zero_shot/top1"),
    ("zero-shot, novel", "pretraining", "zero_shot_novel/top1"),
    *RETRIEVAL,
    ("captions exact", "pretraining", "captioning/exact_match"),
    ("VQA", "questions", "vqa/accuracy"),
)
METRICS_OF_OTHERS = {
    "emoji": (*RETRIEVAL, ("CIDEr", "pretraining", "captioning/cider")),
    "fashion_mnist": (
        ("zero-shot by embeddings", "pretraining", "zero_shot/top1"),
        ("zero-shot by captions", "pretraining", "captions/top1"),
    ),
}


def get_config(argument=None):
    """The sweep; `argument` is None, `emoji`, `fashion_mnist` or `smoke`."""
    argument = argument or None
    if argument not in (None, "smoke", *OF_OTHERS):
        names = ", ".join([*OF_OTHERS, "smoke"])
        raise UserError(f"configuration argument {argument!r} is not known; there is {names}")
    if argument in OF_OTHERS:
        stages, metrics = {"pretraining": _of_others(argument)}, METRICS_OF_OTHERS[argument]
        rows = {name: ROWS[name] for name in OF_OTHERS[argument]} | CHANGED[argument]
    else:
        stages, metrics = _of_shapes(":smoke" if argument else ""), METRICS
        rows = {name: ROWS[name] for name in ("coca", "matching")} if argument else ROWS
    costs = {name: _flops(stages["pretraining"], changes) for name, changes in rows.items()}
    steps = stages["pretraining"].train.steps
    fair = {"coca": rows["coca"]}
    for name, changes in rows.items():
        if costs[name] != costs["coca"]:
            count = max(1, round(steps * costs["coca"] / costs[name]))
            fair[f"{name}_equal_flops"] = (*changes, ("pretraining.train.steps", count))
    tables = {"equal steps": rows, "equal FLOPs": fair}
    return ConfigDict(
        {
            "seeds": (0,) if argument == "smoke" else (0, 1, 2),
            "stages": stages,
            # Rows, because a section's keys have no order.
            "tables": tuple((title, tuple(table.items())) for title, table in tables.items()),
            "metrics": metrics,
        }
    )


def _of_shapes(argument):
    """Pretraining on relations, then questions."""
    pretraining = load_config(f"shapes_relations{argument}")
    pretraining.data.train.negatives, pretraining.loss.matching.weight = "", 0.0  # of `:smoke`
    of_head = {"scoring": "matching"}  # left out where no head is trained
    pretraining.eval.relation_by_matching = ConfigDict(
        pretraining.eval.relation_by_captions.to_dict() | of_head
    )
    questions = load_config("shapes_vqa")
    pretraining.loss.matching.block_size = min(32, pretraining.train.batch_size)
    questions.optimizer.learning_rate = 1e-3
    if argument:
        questions.train = ConfigDict(pretraining.train.to_dict())
        questions.optimizer.warmup_steps = pretraining.optimizer.warmup_steps
        questions.eval.vqa.limit = 8
    else:
        pretraining.train.steps, questions.train.steps = 1000, 500
        questions.train.batch_size = pretraining.train.batch_size
    zero_shot = load_config(f"shapes{argument}").eval
    for name in ("zero_shot", "zero_shot_novel"):
        pretraining.eval[name] = zero_shot[name]
    pretraining.eval.retrieval.update({"rerank": 10, "rerank_by": "captions"})
    questions.model = ConfigDict(pretraining.model.to_dict())
    questions.model.text.context_length = 32  # for any question with answer
    questions.eval = {"vqa": questions.eval.vqa}
    questions.loss.classification.weight = 0.0  # answers are written
    questions.head.classes = ()
    questions.init.path = "pretraining"  # the stage
    return {"pretraining": pretraining, "questions": questions}


def _of_others(name):
    config = load_config(name)
    config.train.steps = min(config.train.steps, 1000)
    if "retrieval" in config.eval:
        config.eval.retrieval.update({"rerank": 10, "rerank_by": "captions"})
    return config


def _flops(stage, changes):
    """FLOPs of one pair in the training of a row."""
    config = ConfigDict(stage.to_dict())
    for key, value in changes:
        config.update_from_flattened_dict({key.removeprefix("pretraining."): value})
    return training_flops(model_config(config), config.data.packing)
