"""The evaluations that `config.eval` names by their `kind`; a user's own file may add to them."""

from coca_jax.registry import Registry

evaluations = Registry(
    "evaluation",
    {
        "zero_shot": "coca_jax.evaluate.zero_shot:ZeroShot",
        "retrieval": "coca_jax.evaluate.retrieval:Retrieval",
        "captioning": "coca_jax.evaluate.captioning:Captioning",
        "vqa": "coca_jax.evaluate.vqa:VQA",
        "classification": "coca_jax.evaluate.classification:Classification",
        "matching": "coca_jax.evaluate.matching:Matching",
        "probe": "coca_jax.evaluate.probe:Probe",
        "loss": "coca_jax.evaluate.loss:HeldOutLoss",
    },
)
