"""A model so small that the probability of every text that it can generate can be computed."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from coca_jax.generate import Decoding, Prompt, generate
from coca_jax.models import PRESETS, CoCa, init_params

BOS, EOS, PAD, VOCAB, LENGTH, IMAGES = 0, 1, 2, 7, 5, 6
DECODING = Decoding(BOS, EOS, PAD, LENGTH, suppress=(BOS, PAD))
PROMPTS = [(BOS,), (BOS, 5), (BOS, 3, EOS), (BOS, 6, 6), (BOS, 4), (BOS,)]


def make_model(vocab_size=VOCAB, length=LENGTH, seed=0):
    """A model, and parameters with which captions differ and end sooner or later."""
    text = dataclasses.replace(
        PRESETS["tiny"].text,
        vocab_size=vocab_size,
        context_length=length,
        pad_id=PAD,
        unimodal_layers=1,
        multimodal_layers=1,
    )
    image = dataclasses.replace(PRESETS["tiny"].image, num_layers=1)
    model = CoCa(dataclasses.replace(PRESETS["tiny"], text=text, image=image))
    params = jax.jit(lambda: nn.meta.unbox(init_params(model, jax.random.key(seed))))()
    decoder = params["decoder"]
    decoder["embedding"] = decoder["embedding"] * 40
    return model, params


def make_pixels(images=IMAGES, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal((images, 16, 16, 3)) * 2)


@functools.cache
def model_and_params():
    return make_model()


def run(method, decoding=DECODING, prompt=None, key=None, pixels=None):
    """Generates with the model, in a program that is compiled once for each setting."""
    pixels = make_pixels() if pixels is None else pixels
    generated = program(method, decoding)(model_and_params()[1], pixels, prompt, key)
    return jax.tree.map(np.asarray, generated)


def uneven_prompts():
    """`PROMPTS`, padded with what is a token, too."""
    ids = np.array([(*p, 3, 3)[:3] for p in PROMPTS], np.int32)
    return Prompt(ids, np.array([len(p) for p in PROMPTS], np.int32))


@functools.cache
def program(method, decoding):
    model = model_and_params()[0]
    return jax.jit(lambda p, x, prompt, key: generate(model, p, x, decoding, method, prompt, key))


@functools.cache
def logits():
    """For each image, {begin and tokens so far: float64 logits of the next token}.

    The whole model, without a cache, is run on all of the 7 ** 4 texts.
    """
    model, params = model_and_params()
    texts = np.array([(BOS, *rest) for rest in itertools.product(range(VOCAB), repeat=LENGTH - 1)])
    logits_of = jax.jit(lambda x, ids: model.apply({"params": params}, x, ids, method=_logits))
    tables = []
    for x in make_pixels():
        rows = np.asarray(logits_of(x[None], texts), np.float64)
        texts_and_rows = list(zip(texts.tolist(), rows, strict=True))
        tables.append(
            {tuple(text[:t]): row[t - 1] for text, row in texts_and_rows for t in range(1, LENGTH)}
        )
    return tables


def _logits(model, pixels, ids):
    context = model.image_context(pixels)
    return model.decoder.caption_logits(model.decoder.unimodal_features(ids)[0], context)


@functools.cache
def log_probabilities():
    """As `logits`."""
    return [
        {text: row - np.log(np.exp(row).sum()) for text, row in table.items()} for table in logits()
    ]


def log_probability(image, text, prompt_length=1):
    """Of the tokens after the prompt."""
    table = log_probabilities()[image]
    return sum(table[text[:t]][text[t]] for t in range(prompt_length, len(text)))


def plain(generated):
    """[images][n] tuples of tokens, without padding."""
    return [
        [tuple(ids[:length].tolist()) for ids, length in zip(*rows, strict=True)]
        for rows in zip(generated.ids, generated.lengths, strict=True)
    ]


def allowed(row, text, decoding):
    """The penalized logits or log-probabilities of the choices; -inf for excluded tokens."""
    row = np.array(row)
    for token in set(text):
        x, penalty = row[token], decoding.repetition_penalty
        row[token] = x * penalty if x < 0 else x / penalty
    row[list(decoding.suppress)] = -np.inf
    if len(text) < decoding.min_length:
        row[decoding.eos_id] = -np.inf
    return row


def all_texts(decoding=DECODING):
    """Every text that may be generated from the begin token."""
    texts, running = [], [(BOS,)]
    for length in range(2, decoding.length + 1):
        tokens = [t for t in range(VOCAB) if t not in decoding.suppress]
        grown = [(*text, token) for text in running for token in tokens]
        texts += [x for x in grown if x[-1] == EOS or length == decoding.length]
        running = [x for x in grown if x[-1] != EOS]
    return texts
