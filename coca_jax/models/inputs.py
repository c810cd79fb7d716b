"""The arrays of a batch as the model's call and the losses take them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from coca_jax.models.attention import segment_starts
from coca_jax.models.config import CoCaConfig
from coca_jax.models.matching import make_draws

SEGMENTS = "text_segment_ids"


def call_inputs(config: CoCaConfig, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model's call that are neither images nor texts, by name.

    Args:
      config: of the model.
      batch: for a head with `prefix_length` [b]; of packed texts with `text_segment_ids`; with
        `negative_text` [b, t] where the data give wrong captions; with `matching_draws` for a
        matching head.
    """
    inputs = {} if config.head is None else {"prefix_length": batch["prefix_length"]}
    if SEGMENTS in batch:
        inputs["segments"] = batch[SEGMENTS]
    if "negative_text" in batch and config.has_cls:
        inputs["negative_ids"] = batch["negative_text"]
    if config.matching_block:
        inputs["matching_draws"] = batch["matching_draws"]
    return inputs


def with_masks(config: CoCaConfig, batch: Mapping[str, Any], key: Any = None) -> dict[str, Any]:
    """The global batch with the masks that losses read, and the draws of a matching head.

    `text_mask` [b, t] is False at padding, and at the first token of each packed text, which none
    predicts; `negative_mask` [b] where a row has no negative text.

    Args:
      config: of the model.
      batch: its arrays.
      key: of hard negatives; None: the most similar ones are taken.
    """
    pad_id = config.text.pad_id
    masks = {"text_mask": batch["text"] != pad_id}
    if SEGMENTS in batch:
        segments = batch[SEGMENTS]
        masks["text_mask"] &= (segments > 0) & ~segment_starts(segments)
    if "negative_text" in batch:
        masks["negative_mask"] = jnp.any(batch["negative_text"] != pad_id, axis=1)
    if config.matching_block:
        masks["matching_draws"] = make_draws(batch, config.matching_block, key)
    return {**batch, **masks}
