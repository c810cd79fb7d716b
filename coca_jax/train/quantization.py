"""Matmuls of few bits in training, by Qwix."""

from coca_jax.errors import UserError
from coca_jax.models import CoCa

LAYERS = r".*/(query|key|value|out|up|down)"  # the matmuls of every transformer layer and pooler
# Of weights and activations, and of gradients, which need range more than digits.
TYPES = {"int8": ("int8", "int8"), "fp8": ("float8_e4m3fn", "float8_e5m2")}


def quantized(model: CoCa, name: str) -> CoCa:
    """The model with the matmuls of its layers in few bits, forward and backward.

    Both sides of a matmul are scaled by their largest magnitude, row by row and column by column,
    anew at every step, so that there is no state. Patches, attention between tokens, embeddings and
    the vocabulary are left as they are, and so are parameters: the result shares those of `model`.

    Args:
      model: its `__call__` changes; other methods do not.
      name: int8, fp8, or empty, which changes nothing.

    Raises:
      UserError: Qwix is not installed.
    """
    if not name:
        return model
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            f"config.train.quantization={name}: Qwix is not installed: "
            'pip install "coca_jax[quantization]"'
        ) from error
    forward, backward = TYPES[name]
    rule = qwix.QtRule(
        module_path=LAYERS, weight_qtype=forward, act_qtype=forward, bwd_qtype=backward
    )
    return qwix.quantize_model(model, qwix.QtProvider([rule]))
