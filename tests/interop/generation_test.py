"""Captions against OpenCLIP's own greedy ones, and beams against Hugging Face's search."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.open_clip import FOLDER, recorded

from coca_jax.generate import Beams, Decoding, Greedy, Prompt, generate
from coca_jax.models import CoCa

BOS, EOS, PAD = 94, 95, 0
with np.load(FOLDER / "generation.npz") as file:
    RECORDED = dict(file)
SETTINGS = {case["case"]: case for case in map(json.loads, RECORDED["settings"].tolist())}
# Each setting is compiled anew: the main ones are tested always, on one of the two models.
MAIN = ("greedy", "greedy_prompt", "greedy_repetition", "beam", "beam_prompt", "beam_everything")
ON_BOTH = ("greedy_prompt", "beam_everything")


def cases(author):
    """Cases that OpenCLIP or transformers recorded.

    Settings act on logits, whatever the model is: they take turns on the two if slow tests are
    asked for. That each model decodes as it should, the settings on both make sure.
    """
    settings = [name.split("/")[1] for name in SETTINGS if name.startswith("square/")]
    turns = [name for name in settings if name not in MAIN]
    for case, setting in SETTINGS.items():
        model, name = case.split("/")
        quick = model == "square" and name in MAIN
        turn = name in turns and model == ("square", "uneven")[turns.index(name) % 2]
        if setting["by"] == author and (quick or turn or name in ON_BOTH):
            yield pytest.param(case, marks=() if quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def run():
    """Generates for one of the recorded models; compiled functions are shared."""
    models = {name: recorded(name) for name in ("square", "uneven")}
    parts = {name: (CoCa(model.config()), model.params()) for name, model in models.items()}
    compiled = jax.jit(generate, static_argnums=(0, 3, 4))

    def run(case, decoding, method):
        name = case.split("/")[0]
        prompts = RECORDED[f"{name}/prompts"]
        prompts = prompts if SETTINGS[case]["prompted"] else prompts[:, :1]
        prompt = Prompt(jnp.asarray(prompts, jnp.int32))
        model, params = parts[name]
        pixels = jnp.asarray(RECORDED[f"{name}/pixels"])
        return compiled(model, params, pixels, decoding, method, prompt), prompts.shape[1]

    return run


def decoding(length, min_length=0, repetition_penalty=1.0, suppress=()):
    return Decoding(BOS, EOS, PAD, length, min_length, tuple(suppress), repetition_penalty)


@pytest.mark.parametrize("case", list(cases("open_clip")))
def test_greedy_is_open_clips_generate(run, case):
    arguments = SETTINGS[case]["arguments"]
    length = arguments["seq_len"]
    settings = decoding(length, arguments["min_seq_len"], arguments["repetition_penalty"])
    made, _ = run(case, settings, Greedy())
    for found, expected in zip(made.ids[:, 0], RECORDED[f"{case}/ids"], strict=True):
        found, expected = np.array(found), np.pad(expected, (0, length - len(expected)))
        if EOS not in found[:-1]:  # OpenCLIP ends every text, the longest in their last place
            assert expected[-1] == EOS
            found, expected = found[:-1], expected[:-1]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("case", list(cases("transformers")))
def test_beams_are_those_of_transformers(run, case):
    arguments = SETTINGS[case]["arguments"]
    prompt = 3 if SETTINGS[case]["prompted"] else 1
    least = arguments.get("min_new_tokens", 0)
    settings = decoding(
        arguments["max_length"],
        least and prompt + least,
        arguments.get("repetition_penalty", 1.0),
        arguments.get("suppress_tokens", ()),
    )
    n_best = arguments.get("num_return_sequences", 1)
    method = Beams(
        arguments["num_beams"], n_best, arguments["length_penalty"], arguments["early_stopping"]
    )
    made, start = run(case, settings, method)
    expected = RECORDED[f"{case}/ids"].reshape(len(made.ids), n_best, -1)
    for i, k in np.ndindex(made.ids.shape[:2]):
        found = made.ids[i, k, : made.lengths[i, k]].tolist()
        text = expected[i, k].tolist()  # filled up with end tokens
        ended = EOS in text[start:]
        assert found == (text[: text.index(EOS, start) + 1] if ended else text)
    scores = RECORDED[f"{case}/scores"].reshape(made.scores.shape)
    np.testing.assert_allclose(made.scores, scores, rtol=1e-4, atol=1e-4)
