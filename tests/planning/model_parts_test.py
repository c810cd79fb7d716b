"""The parts of the model that paths of operations are of."""

import pytest

from coca_jax.planning.model_parts import model_part

STEP = "jit(train_step)"
SCAN = "image_encoder/transformer/transformer._scan/while/body"
DECODER = "CoCa._output/CoCa._multimodal_features/decoder.multimodal_features/multimodal"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (f"{STEP}/jvp(CoCa)/{SCAN}/eval_jaxpr/layers/mlp/up/dot", "image encoder / MLP / forward"),
        (
            f"{STEP}/transpose(jvp(CoCa))/{SCAN}/eval_jaxpr/layers/mlp_norm/mul",
            "image encoder / layer norm / backward",
        ),
        (
            f"{STEP}/jvp(CoCa)/{SCAN}/jit(dynamic_update_index_in_dim)/dynamic_update_slice",
            "image encoder / stacks of the scan / forward",
        ),
        (
            f"{STEP}/transpose(jvp(CoCa))/{DECODER}/checkpoint/rematted_computation/layers/cross_attention/key/dot",
            "text decoder, multimodal / cross-attention / recomputed",
        ),
        (f"{STEP}/jvp(captioning_loss)/while/body/dot_general", "captioning loss / forward"),
        (f"{STEP}/optimizer/mul", "optimizer"),
        (f"{STEP}/reduce_sum", "the rest"),
        (
            f"{STEP}/transpose(jvp(CoCa))/({SCAN}/layers/mlp/up/dot:{DECODER}/layers/mlp/dot)",
            "several parts / MLP / backward",
        ),
    ],
)
def test_paths(path, part):
    assert model_part(path) == part
