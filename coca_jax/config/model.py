"""From the configuration tree to the model's own description."""

from ml_collections import ConfigDict

from coca_jax.losses.registry import trained_losses
from coca_jax.models.config import CoCaConfig, HeadConfig


def model_config(config: ConfigDict) -> CoCaConfig:
    """The model that this configuration trains, with the parts that its losses read."""
    reads = {field for loss in trained_losses(config.loss).values() for field in loss.reads}
    contrastive, head = "none", None
    if reads & {"image_embeddings", "text_embeddings", "logit_scale", "logit_bias"}:
        contrastive = "sigmoid" if "logit_bias" in reads else "softmax"
    if "class_logits" in reads:
        head = HeadConfig(len(config.head.classes), config.head.input, config.data.num_images)
    return CoCaConfig.from_dict(
        config.model.to_dict(),
        contrastive=contrastive,
        captioning=bool(reads & {"features", "unembedding"}),
        initial_temperature=config.loss.contrastive.initial_temperature,
        head=head,
    )
