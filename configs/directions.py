"""Where CoCa could go: what better contrast, better fusion and less compute bring, and cost.

    coca data prepare shapes
    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_vqa --workdir runs/vqa
    coca data prepare shapes_relations
    coca compare --config directions --workdir runs/directions

Each row is CoCa with one setting, or several, that are off by default. The first table gives all
rows the same steps; the second one gives each as many steps as the first row's FLOPs are enough
for. A run of `shapes_vqa`, the same for all seeds, goes on with scenes whose captions depend on
word order, so that there is room to improve, and then with questions again. `:emoji` and
`:fashion_mnist` compare training from the beginning, on drawings and photographs that people made,
and `:shapes` on scenes, with fewer steps than it takes to learn them: there a trained run is the
teacher of a row, and finds the neighborhoods of another one.

    coca embed --model runs/shapes --data tfds:shapes --split train --output runs/embedded
    coca data neighborhoods --config shapes --embeddings runs/embedded runs/neighborhoods.npy
    coca compare --config directions:shapes --workdir runs/directions_shapes

`:smoke` runs a few steps of two rows. docs/outline.md has the source of each setting.
"""

from ml_collections import ConfigDict

from coca_jax.config import load_config, model_config
from coca_jax.errors import UserError
from coca_jax.planning import training_flops

# Of `:shapes`: a trained run of `shapes`, and what its embeddings say is alike.
TEACHER, NEIGHBORHOODS = "runs/shapes", "runs/neighborhoods.npy"
MATCHING = (("training.loss.matching.weight", 1.0),)
BY_MATCHING = (("training.eval.retrieval.rerank_by", "matching"),)
NEGATIVES = (("training.data.train.negatives", "negatives"),)
PATCHES = (("training.model.image.patch_dropout", 0.5),)
ROWS = {
    "coca": (),
    "groups": (("training.data.train.group", "caption"),),
    "negatives": NEGATIVES,
    "matching": MATCHING + BY_MATCHING,
    "negatives_and_matching": NEGATIVES + MATCHING + BY_MATCHING,
    "half_of_the_patches": PATCHES,
    "packed": (
        ("training.data.packing.texts_per_row", 4),
        ("training.data.packing.row_length", 69),  # cuts one caption of a thousand at most
    ),
}
COCA, HALF = ("coca", ()), ("half_of_the_patches", PATCHES)
# Not a row of shapes: its parameters are not those of the run that they start from.
SPARSE = ("cross-attention_every_2", (("model.text.cross_attention_every", 2),))
BY_LABEL = ("groups", (("training.data.train.group", "label"),))  # the only text of a photograph
TAUGHT = (
    ("training.loss.distillation.weight", 1.0),
    ("training.loss.distillation.teacher", TEACHER),
)
ALIKE = (("training.data.train.neighborhoods", NEIGHBORHOODS),)
ROWS_FROM_THE_BEGINNING = {
    "shapes": {
        **{name: ROWS[name] for name in ("coca", "groups", "matching")},
        "neighborhoods": ALIKE,
        "distillation": TAUGHT,
        "neighborhoods_and_distillation": ALIKE + TAUGHT,
        **dict([SPARSE, HALF]),
        "packed": (
            ("training.data.packing.texts_per_row", 4),
            ("training.data.packing.row_length", 52),
        ),
    },
    "emoji": dict([COCA, ("groups", ROWS["groups"]), ("matching", ROWS["matching"]), SPARSE, HALF]),
    "fashion_mnist": dict([COCA, BY_LABEL, SPARSE, HALF]),
}
RETRIEVAL = (
    ("image to text R@1", "training", "retrieval/image_to_text_r1"),
    ("text to image R@1", "training", "retrieval/text_to_image_r1"),
    ("re-ranked i2t R@1", "training", "retrieval/reranked_image_to_text_r1"),
    ("re-ranked t2i R@1", "training", "retrieval/reranked_text_to_image_r1"),
)
METRICS = (
    ("relations", "training", "relation_by_embeddings/accuracy"),
    ("held-out relations", "training", "relation_novel_by_embeddings/accuracy"),
    ("counts", "training", "count_by_embeddings/accuracy"),
    ("negations", "training", "negation_by_embeddings/accuracy"),
    ("relations by captions", "training", "relation_by_captions/accuracy"),
    ("relations by the head", "training", "relation_by_matching/accuracy"),
    ("zero-shot", "training", "zero_shot/top1"),
    ("zero-shot, novel", "training", "zero_shot_novel/top1"),
    *RETRIEVAL,
    ("captions exact", "training", "captioning/exact_match"),
    ("VQA", "questions", "vqa/accuracy"),
)
METRICS_FROM_THE_BEGINNING = {
    "shapes": (
        ("zero-shot", "training", "zero_shot/top1"),
        ("zero-shot, novel", "training", "zero_shot_novel/top1"),
        *RETRIEVAL,
        ("captions exact", "training", "captioning/exact_match"),
    ),
    "emoji": (*RETRIEVAL, ("CIDEr", "training", "captioning/cider")),
    "fashion_mnist": (
        ("zero-shot by embeddings", "training", "zero_shot/top1"),
        ("zero-shot by captions", "training", "captions/top1"),
    ),
}


def get_config(argument=None):
    """The sweep; `argument` is None, `shapes`, `emoji`, `fashion_mnist` or `smoke`."""
    argument = argument or None
    if argument not in (None, "smoke", *ROWS_FROM_THE_BEGINNING):
        names = ", ".join([*ROWS_FROM_THE_BEGINNING, "smoke"])
        raise UserError(f"configuration argument {argument!r} is not known; there is {names}")
    if argument in ROWS_FROM_THE_BEGINNING:
        stages = {"training": _from_the_beginning(argument)}
        rows = ROWS_FROM_THE_BEGINNING[argument]
        metrics = METRICS_FROM_THE_BEGINNING[argument]
    else:
        stages, metrics = _of_shapes(":smoke" if argument else ""), METRICS
        rows = {name: ROWS[name] for name in ("coca", "matching")} if argument else ROWS
    costs = {name: _flops(stages["training"], changes) for name, changes in rows.items()}
    steps = stages["training"].train.steps
    fair = {"coca": rows["coca"]}
    for name, changes in rows.items():
        if costs[name] != costs["coca"]:
            count = max(1, round(steps * costs["coca"] / costs[name]))
            fair[f"{name}_equal_flops"] = (*changes, ("training.train.steps", count))
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
    """Training on relations, then on questions."""
    training = load_config(f"shapes_relations{argument}")
    training.data.train.negatives, training.loss.matching.weight = "", 0.0  # of `:smoke`
    of_head = {"scoring": "matching"}  # left out where no head is trained
    training.eval.relation_by_matching = ConfigDict(
        training.eval.relation_by_captions.to_dict() | of_head
    )
    questions = load_config("shapes_vqa")
    if argument:
        questions.train = ConfigDict(training.train.to_dict())
        questions.optimizer.warmup_steps = training.optimizer.warmup_steps
        questions.eval.vqa.limit = 8
    else:
        questions.train.steps = 300
    zero_shot = load_config(f"shapes{argument}").eval
    for name in ("zero_shot", "zero_shot_novel"):
        training.eval[name] = zero_shot[name]
    training.eval.retrieval.update({"rerank": 10, "rerank_by": "captions"})
    questions.model = ConfigDict(training.model.to_dict())
    questions.eval = {"vqa": questions.eval.vqa}
    questions.loss.classification.weight = 0.0  # answers are written
    questions.head.classes = ()
    questions.init.path = "training"  # the stage
    return {"training": training, "questions": questions}


def _from_the_beginning(name):
    config = load_config(name)
    config.train.steps = min(config.train.steps, 1000)
    if name == "shapes":
        config.train.steps = 400
        config.data.tokenizer.path = f"{TEACHER}/tokenizer.model"
    if "retrieval" in config.eval:
        config.eval.retrieval.update({"rerank": 10, "rerank_by": "captions"})
    return config


def _flops(stage, changes):
    """FLOPs of one pair in the training of a row."""
    config = ConfigDict(stage.to_dict())
    for key, value in changes:
        config.update_from_flattened_dict({key.removeprefix("training."): value})
    model = model_config(config)
    # As large as the row's model.
    teacher = model if config.loss.distillation.weight else None
    return training_flops(model, config.data.packing, teacher)
