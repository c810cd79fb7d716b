"""Further evaluations of a run of `shapes`, which need no training.

    coca data prepare shapes_clips
    coca evaluate --config shapes_zero_shot --workdir runs/shapes

They choose the one of two texts that fits a scene, by embeddings and by the decoder; caption
combinations that training never showed; and retrieve clips by the mean embedding of their frames.
"""

from coca_jax.config import load_config


def get_config(argument=None):
    """That experiment with other evaluations; `argument` is None or `smoke`."""
    config = load_config(f"shapes:{argument or ''}")
    test, novel = ({"name": "shapes", "split": split} for split in ("test", "test_novel"))
    clips = {"name": "shapes_clips", "split": "test", "num_images": 8}
    config.eval = {
        "matching": test | {"kind": "matching"},
        "matching_by_captions": test | {"kind": "matching", "scoring": "captions"},
        "matching_novel": novel | {"kind": "matching"},
        "captioning_novel": novel | {"kind": "captioning", "limit": 500},
        "clips": clips | {"kind": "retrieval"},
        "one_frame": clips | {"kind": "retrieval", "num_images": 1},
    }
    if argument == "smoke":
        for evaluation in config.eval.values():
            evaluation.limit = 16
    return config
