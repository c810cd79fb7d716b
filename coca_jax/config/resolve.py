"""From a configuration to the model it describes, for the devices that will run it."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from coca_jax.accelerators import default
from coca_jax.config.schema import Config
from coca_jax.config.tree import build
from coca_jax.losses.registry import losses, outputs_read, trained_losses
from coca_jax.models.config import CoCaConfig, HeadConfig


def model_config(config: Config | ConfigDict, device: Any = None) -> CoCaConfig:
    """The model that this configuration trains, with the parts that its losses read.

    Args:
      config: the whole tree.
      device: one of those that will run it, for what is `auto`; None: one that is here.
    """
    if isinstance(config, ConfigDict):
        config = build(config)
    reads = outputs_read(trained_losses(config.loss))
    contrastive, head = "none", None
    if reads & {"image_embeddings", "text_embeddings", "logit_scale", "logit_bias"}:
        contrastive = "sigmoid" if "logit_bias" in reads else "softmax"
    if "class_logits" in reads:
        head = HeadConfig(len(config.head.classes), config.head.input, config.data.num_images)
    model = dataclasses.replace(
        config.model,
        contrastive=contrastive,
        captioning=bool(reads & {"features", "unembedding"}),
        initial_temperature=config.loss.contrastive.initial_temperature,
        head=head,
        matching_block=config.loss.matching.block_size * ("matching_logits" in reads),
        negatives=contrastive != "none" and config.data.has_negatives,
    )
    return _resolve(model, jax.local_devices()[0] if device is None else device)


def unregistered_losses(config: ConfigDict) -> list[str]:
    """Names of the losses of a stored configuration that this process does not know."""
    return [name for name in config.loss if name not in losses]


def _resolve(model: CoCaConfig, device: Any) -> CoCaConfig:
    """The model with what suits it and the device in place of `auto`."""
    dtype, attention = model.dtype, model.attention
    if dtype == "auto":
        dtype = default("dtype", device)
    if attention == "auto":
        attention = default("attention", device)
        if attention == "cudnn" and not (dtype == "bfloat16" and _suits_cudnn(model)):
            attention = "xla"
    unroll = model.scan_unroll
    if not unroll:
        # What is computed again is not kept: a scan has next to nothing to stack.
        recomputes = {part.remat or model.remat for part in (model.image, model.text)} == {"full"}
        unroll = 1 if recomputes else default("unroll", device)
    return dataclasses.replace(model, dtype=dtype, attention=attention, scan_unroll=unroll)


def _suits_cudnn(model: CoCaConfig) -> bool:
    """Whether cuDNN's fused attention takes the sizes of all heads."""
    heads = [
        (model.image.width, model.image.num_heads),
        (model.text.width, model.text.num_heads),
        (model.text.width, model.pooler.num_heads),
    ]
    if model.head is not None and model.head.input == "image":
        heads.append((model.image.width, model.pooler.num_heads))
    sizes = [width // count for width, count in heads]
    return all(size % 8 == 0 and size <= 128 for size in sizes)
