"""From the configuration tree to the model's own description."""

from ml_collections import ConfigDict

from coca_jax.models.config import CoCaConfig, HeadConfig


def model_config(config: ConfigDict) -> CoCaConfig:
    """The model that this configuration trains: a loss with weight 0 has no part in it."""
    contrastive, head = config.loss.contrastive, None
    if config.loss.classification.weight:
        head = HeadConfig(len(config.head.classes), config.head.input, config.data.num_images)
    return CoCaConfig.from_dict(
        config.model.to_dict(),
        contrastive=contrastive.kind if contrastive.weight else "none",
        captioning=bool(config.loss.captioning.weight),
        initial_temperature=contrastive.initial_temperature,
        head=head,
    )
