"""Generates and scores captions with a key/value cache."""

from coca_jax.generate.beams import Beams
from coca_jax.generate.decoding import Decoding, Generated, Method, Prompt, generate
from coca_jax.generate.methods import METHODS, make_method
from coca_jax.generate.sampling import Greedy, Sampling
from coca_jax.generate.scoring import Scores, score

__all__ = [
    "METHODS",
    "Beams",
    "Decoding",
    "Generated",
    "Greedy",
    "Method",
    "Prompt",
    "Sampling",
    "Scores",
    "generate",
    "make_method",
    "score",
]
