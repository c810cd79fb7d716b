"""Averages over the tokens of each word of a text."""

import itertools

import numpy as np
from jaxtyping import Float32, Int

from coca_jax.data.tokenizers import Tokenizer


def mean_by_word(
    tokenizer: Tokenizer, ids: Int[np.ndarray, " t"], values: Float32[np.ndarray, "t *n"]
) -> list[tuple[str, Float32[np.ndarray, "*n"]]]:
    """Averages the values of the tokens of each word.

    Words are what white space parts; those that one token writes at once come as one.

    Args:
      tokenizer: of the ids.
      ids: a text, with its begin and end.
      values: position t is about token t + 1, as logits are.
    """
    # The last end token, since a text may contain one.
    end = len(ids) - 1 - int(np.argmax(ids[::-1] == tokenizer.eos_id))
    # The text up to each token: its last word is the one that the token belongs to.
    begun = np.where(np.tri(end, len(ids), dtype=bool), ids, tokenizer.pad_id)
    begun[np.arange(end), np.arange(1, end + 1)] = tokenizer.eos_id
    texts = [text.split() for text in tokenizer.decode(begun)]
    counts = [
        # A space alone is part of the next word.
        len(text) if text != before else len(texts[-1])
        for before, text in itertools.pairwise(texts)
    ]
    # Some decoders join words again as a text goes on.
    counts = np.minimum.accumulate(np.array(counts, int)[::-1])[::-1]
    first, result = 0, []
    for last in np.unique(counts) if texts[-1] else ():
        mean = values[: end - 1][counts == last].mean(axis=0)
        result.append((" ".join(texts[-1][first:last]), mean))
        first = last
    return result
