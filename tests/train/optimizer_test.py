import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coca_jax.config import default_config
from coca_jax.errors import UserError
from coca_jax.train.optimizer import layer_factors, make_optimizer, make_schedule

PARAMS = {
    "image": {"kernel": jnp.full((256, 128), 0.5), "bias": jnp.full(3, 0.5)},
    "text": {"kernel": jnp.full((4, 4), -0.5), "scale": jnp.ones(2)},
}


def config(**changes):
    settings = default_config().optimizer
    settings.update(
        {"warmup_steps": 0, "schedule": "constant", "learning_rate": 0.1, "clip_norm": 0.0}
    )
    settings.update(changes)
    return settings


def gradients(seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.float32(rng.standard_normal(x.shape)), PARAMS)


def run(settings, steps=3):
    optimizer, _ = make_optimizer(settings, 10, PARAMS)
    params, state = PARAMS, optimizer.init(PARAMS)
    for step in range(steps):
        updates, state = optimizer.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]),
        ("rsqrt", [0, 0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5, (1 / 3) ** 0.5]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules(name, expected):
    schedule = make_schedule(config(learning_rate=1.0, warmup_steps=2, schedule=name), 6)
    np.testing.assert_allclose([schedule(step) for step in range(7)], expected, atol=1e-6)


def test_adamw_in_float64():
    params, _ = run(config(name="adamw", weight_decay=0.1, b2=0.99))
    expected = {}
    for path, start in [(("text", "kernel"), -0.5), (("text", "scale"), 1.0)]:
        shape = PARAMS[path[0]][path[1]].shape
        x, m, v = np.full(shape, start), np.zeros(shape), np.zeros(shape)
        for step in range(3):
            g = np.asarray(gradients(step)[path[0]][path[1]], np.float64)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            update = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8)
            decay = 0.1 * x if path[1] == "kernel" else 0  # scales and biases do not decay
            x = x - 0.1 * (update + decay)
        expected[path[1]] = x
    np.testing.assert_allclose(params["text"]["kernel"], expected["kernel"], rtol=2e-5)
    np.testing.assert_allclose(params["text"]["scale"], expected["scale"], rtol=2e-5)


def test_adafactor_in_float64():
    """Factored second moments (arXiv 1804.04235), clipped updates, momentum, decoupled decay."""
    params, state = run(config(name="adafactor", weight_decay=0.01))
    x, momentum = np.full((256, 128), 0.5), np.zeros((256, 128))
    rows, columns = np.zeros(256), np.zeros(128)
    for step in range(3):
        g = np.asarray(gradients(step)["image"]["kernel"], np.float64)
        decay = min(1 - (step + 1.0) ** -0.8, 0.999)
        rows = decay * rows + (1 - decay) * (g**2 + 1e-30).mean(1)
        columns = decay * columns + (1 - decay) * (g**2 + 1e-30).mean(0)
        update = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        update /= max(1.0, np.sqrt((update**2).mean()))
        momentum = 0.9 * momentum + 0.1 * update
        x = x - 0.1 * (momentum + 0.01 * x)
    np.testing.assert_allclose(params["image"]["kernel"], x, rtol=1e-4)
    largest = max(leaf.size for leaf in jax.tree.leaves(state[1][0]))
    assert largest == 256  # no second moment is as large as its parameter


def test_adafactors_second_moment_decay_stops_at_b2():
    optimizer, _ = make_optimizer(config(name="adafactor", b2=0.5, b1=0.0), 10, PARAMS)
    state, g = optimizer.init(PARAMS), gradients()
    for _ in range(20):
        _, state = optimizer.update(g, state, PARAMS)
    once = jax.tree.map(jnp.zeros_like, g)
    _, state = optimizer.update(once, state, PARAMS)
    v = state[1][0].v["text"]["scale"]
    np.testing.assert_allclose(v, 0.5 * g["text"]["scale"] ** 2, rtol=1e-4)


def test_lion_moves_by_the_sign():
    params, _ = run(config(name="lion", weight_decay=0.0), steps=1)
    moved = (params["image"]["bias"] - PARAMS["image"]["bias"]) / 0.1
    np.testing.assert_allclose(moved, -np.sign(gradients()["image"]["bias"]), rtol=1e-5)


def test_clipping_by_the_norm_over_all_trained_parameters():
    settings = config(name="adamw", clip_norm=1.0, weight_decay=0.0, b1=0.0)
    optimizer, _ = make_optimizer(settings, 10, PARAMS)
    _, state = optimizer.update(gradients(), optimizer.init(PARAMS), PARAMS)
    seen = [leaf for leaf in jax.tree.leaves(state[1].nu)]
    np.testing.assert_allclose(sum(float(x.sum()) for x in seen), 0.001, rtol=1e-4)


def test_parts_have_their_rates_and_frozen_ones_no_state():
    table = (("image/.*", 0.0), ("text/kernel", 0.5), (".*", 1.0))
    params, state = run(config(name="adamw", weight_decay=0.1, learning_rates=table), steps=1)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(params["image"][name], PARAMS["image"][name])
    np.testing.assert_allclose(np.abs(params["text"]["scale"] - 1), 0.1, rtol=1e-3)
    step = params["text"]["kernel"] - PARAMS["text"]["kernel"]
    expected = -0.05 * (np.sign(gradients()["text"]["kernel"]) + 0.1 * -0.5)
    np.testing.assert_allclose(step, expected, rtol=1e-3)
    assert not any(leaf.shape == (256, 128) for leaf in jax.tree.leaves(state))


def test_tables_that_do_not_fit_are_told_all_at_once():
    with pytest.raises(UserError) as caught:
        make_optimizer(
            config(
                learning_rates=(("video/.*", 1.0), ("(", 1.0), ("image/.*", 1.0)),
                weight_decays=((".*/kernel", 1.0),),
            ),
            10,
            PARAMS,
        )
    text = str(caught.value)
    assert "optimizer.learning_rates: 'video/.*' matches none of image/bias, " in text
    assert "optimizer.learning_rates: '(' is not a regular expression" in text
    assert "optimizer.learning_rates: no row covers text/kernel, text/scale" in text
    assert "optimizer.weight_decays: no row covers image/bias, text/scale" in text


def test_layers_of_the_image_encoder_learn_slower_toward_the_pixels():
    layers = {"layers": {"kernel": jnp.zeros((3, 2, 2)), "bias": jnp.zeros((3, 2))}}
    params = {
        "image_encoder": {"positions": jnp.zeros(2), "transformer": layers, "norm": {"scale": 1.0}},
        "decoder": {"norm": {"scale": 1.0}},
    }
    factors = layer_factors(params, 0.5)
    assert factors["decoder"]["norm"]["scale"] == 1
    assert factors["image_encoder"]["norm"]["scale"] == 1
    assert factors["image_encoder"]["positions"] == 0.5**4
    found = factors["image_encoder"]["transformer"]["layers"]
    np.testing.assert_array_equal(found["kernel"].ravel(), [0.125, 0.25, 0.5])
    assert found["kernel"].shape == (3, 1, 1) and found["bias"].shape == (3, 1)
    settings = config(name="lion", layer_decay=0.5, weight_decay=0.0)
    optimizer, _ = make_optimizer(settings, 10, params)
    ones = jax.tree.map(lambda x: jnp.ones_like(jnp.asarray(x)), params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    expected = jax.tree.map(lambda x, f: -0.1 * f * x, ones, factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


def test_layer_decay_of_other_parameters_is_refused():
    with pytest.raises(UserError, match=r"layer_decay=0\.5 has no effect on what is trained"):
        make_optimizer(config(layer_decay=0.5), 10, PARAMS)
