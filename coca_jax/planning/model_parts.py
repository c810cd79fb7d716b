"""The part of the model that an operation of a compiled train step belongs to."""

import functools
import re

# Names in the path of an operation, and what they are called; the first that occurs counts.
TOWERS = (
    (r"/image_encoder\b", "image encoder"),
    (r"/caption_pooler\b", "caption pooler"),
    (r"/contrastive_pooler\b", "contrastive pooler"),
    (r"/pooler\b", "pooler"),
    (r"/unimodal\b|unimodal_features", "text decoder, unimodal"),
    (r"/multimodal\b|multimodal_features", "text decoder, multimodal"),
    (r"/head\b", "head"),
    (r"/matching_head\b", "matching head"),
    (r"\b([a-z]\w*)_loss\b", r"\1 loss"),
    (r"\bCoCa\b", "model"),
    (r"\boptimizer\b", "optimizer"),
)
LAYERS = (
    (r"_norm\b|/norm\b", "layer norm"),
    (r"/self_attention\b", "self-attention"),
    (r"/cross_attention\b", "cross-attention"),
    (r"/attention\b", "attention"),
    (r"/mlp\b", "MLP"),
    (r"/patch_embedding\b", "patch embedding"),
    (r"/positions?\b|/token_embedding\b|/embedding\b", "embedding"),
    (r"_scan/while(/body/(jit\(dynamic|\w+$)|$)|_scan/\w+$", "stacks of the scan"),
)


@functools.cache
def model_part(op_name: str) -> str:
    """The part of the model, the layer in it and the pass, such as `image encoder / MLP / forward`.

    Args:
      op_name: the path of an operation in JAX's program, from a compiled program's metadata; of
        operations that the compiler merged, paths with colons between them.
    """
    paths = op_name.split(":")
    towers, layers = ({_first(path, names) for path in paths} for names in (TOWERS, LAYERS))
    names = ["several parts"] if len(towers) > 1 else [*towers]
    names += [*layers] if len(layers) == 1 else []
    if "transpose(" in op_name:
        names.append("recomputed" if "rematted_computation" in op_name else "backward")
    elif "jvp(" in op_name:
        names.append("forward")
    return " / ".join(name for name in names if name) or "the rest"


def _first(path: str, names: tuple[tuple[str, str], ...]) -> str:
    matches = ((re.search(pattern, path), name) for pattern, name in names)
    return next((match.expand(name) for match, name in matches if match), "")
