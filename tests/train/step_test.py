"""One step on every mesh, by micro-batches, and with each loss, against one device."""

import dataclasses
import functools
import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.random_params import random_params

from coca_jax.config import build, default_config, model_config
from coca_jax.data.packing import pack
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.losses import Loss, trained_losses
from coca_jax.losses.contrastive import ContrastiveLoss
from coca_jax.losses.distillation import TEACHER_IMAGES, TEACHER_TEXTS
from coca_jax.models import CoCa, make_model, preset
from coca_jax.patches import Patches
from coca_jax.planning.flops import hardware_flops
from coca_jax.train.gradient import Objective, accumulated_gradient, gradient
from coca_jax.train.optimizer import trained_parameters
from coca_jax.train.program import compile_traced, make_program
from coca_jax.validation import validate

SLOW = pytest.mark.slow
SPREAD = (("embed", ("data", "fsdp")),)
# Each axis of the mesh alone, and all of them; the optimizer's state with the parameters, and not.
STRATEGIES = {
    "optimizer": ((8, 1, 1), SPREAD),
    "tensor": ((1, 2, 4), ()),
    "all": ((2, 2, 2), SPREAD),
}


def make_config(**changes):
    config = default_config()
    config.model.update(preset("tiny"))
    config.train.batch_size = 16
    config.optimizer.warmup_steps = 1
    config.update_from_flattened_dict(changes)
    return config


HEAD = {
    "loss.classification.weight": 1.0,
    "loss.classification.label_smoothing": 0.1,
    "head.classes": ("a", "b", "c"),
    "head.input": "text",
}
DISTILLED = {"loss.distillation.weight": 0.5, "loss.distillation.teacher": "a run"}
ALL = (
    HEAD
    | DISTILLED
    | {
        "loss.contrastive.kind": "sigmoid",
        "loss.matching.weight": 1.0,
        "loss.matching.block_size": 2,
    }
)
HEAD_ONLY = HEAD | {"loss.contrastive.weight": 0.0, "loss.captioning.weight": 0.0}
PAIRS = HEAD_ONLY | {"data.num_images": 2}
CLIPS = PAIRS | {"head.input": "image", "optimizer.learning_rates": ((r"head.*", 1.0), (".*", 0.0))}
CHANGES = {
    "all": ALL,
    "contrastive": {"loss.captioning.weight": 0.0},
    "captioning": {"loss.contrastive.weight": 0.0},
    "two_losses": {},
    "packed": {"data.packing.texts_per_row": 2, "data.packing.row_length": 24},
    "native": {"model.image.sequence_lengths": (7,)},
    "native_packed": {
        "model.image.sequence_lengths": (7,),
        "data.packing.texts_per_row": 2,
        "data.packing.row_length": 24,
    },
    "pairs": PAIRS,
    "clips": CLIPS,
    "remat": ALL
    | {"model.image.remat": "offload", "model.text.remat": "full", "model.scan_unroll": 2},
    "dots": ALL | {"model.remat": "dots_with_no_batch_dims_saveable"},
}
GROUPED = ("contrastive", "all", "remat", "dots")
HEADS_ALONE = ("pairs", "clips")
ONE, MANY = (1, 1, 1), (2, 2, 2)


def make_batch(seed=0, num_images=1):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 64, (16, 12)).astype(np.int32)
    for row, length in zip(ids, rng.integers(2, 13, 16), strict=True):
        row[length:] = 0
    frames = (num_images,) if num_images > 1 else ()
    images = rng.integers(0, 256, (16, *frames, 16, 16, 3)).astype(np.uint8)
    batch = {"image": images, "text": ids, "bad_image": np.arange(16, dtype=np.int32)}
    # Micro-batches have 0 to 4 labels.
    label = np.where(np.arange(16) % 4 < 2, rng.integers(0, 3, 16), -1) * (np.arange(16) % 4 != 3)
    return batch | {
        "label": label.astype(np.int32),
        "prefix_length": rng.integers(1, 13, 16, np.int32),
    }


def partitioner_of(sizes, config):
    return Partitioner(
        make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))), config.sharding.rules
    )


def factory_of(config, partitioner):
    return make_program(config, partitioner).factory


@dataclasses.dataclass(frozen=True)
class Alignment(Loss):
    """A loss of a user's own: the mean distance of matching embeddings."""

    reads = ("image_embeddings", "text_embeddings")

    def __call__(self, output, batch):
        distance = jnp.sum((output.image_embeddings - output.text_embeddings) ** 2, axis=1)
        return jnp.mean(distance), {"distance": jnp.mean(distance)}


def gradient_of(config, model=None, count=1, more=()):
    """The gradient of the configured and `more` losses, of parameters, batch and key."""
    model = model or make_model(model_config(config))

    def compute(params, batch, key):
        trained = trained_parameters(params, config.optimizer.learning_rates)
        losses = trained_losses(build(config).loss) | dict(more)
        objective = Objective(model, losses, trained)
        if count == 1:
            return gradient(objective, params, batch, key)
        return accumulated_gradient(objective, params, batch, key, count)

    return compute


@functools.cache
def host_params(config):
    """A model's random parameters on the host: every mesh would compile their making again."""
    return jax.device_get(random_params(make_model(config)))


def params_on(partitioner, config):
    shardings = factory_of(config, partitioner).shardings
    return jax.device_put(host_params(model_config(config)), shardings.params)


@functools.cache
def three_steps(sizes, optimizer_rules=()):
    """Metrics and states of a run: before it, and after each of three different batches."""
    config = make_config(**{"optimizer.name": "adamw", "optimizer.ema_decay": 0.9})
    config.sharding.optimizer_rules = optimizer_rules
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    validate(config, 8)
    partitioner = partitioner_of(sizes, config)
    program = make_program(config, partitioner)
    factory = program.factory
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), factory.abstract)
    params = host_params(model_config(config))
    state = jax.device_put(zeros.replace(params=params, ema=params), factory.shardings)
    batches = [partitioner.put_batch(make_batch(seed)) for seed in range(3)]
    compiled = program.compile(state, batches[0])
    history, states = [], [jax.device_get(state)]
    for batch in batches:
        state, metrics = compiled(state, batch)
        history.append(jax.device_get(metrics))
        states.append(jax.device_get(state))
    assert jax.tree.map(lambda x: x.sharding, state) == factory.shardings
    return history, states, state


def relative(found, expected):
    """The largest deviation of a tree, relative to the length of each expected leaf."""
    ratios = jax.tree.map(
        lambda a, b: np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12), found, expected
    )
    return max(jax.tree.leaves(ratios))


@pytest.mark.parametrize("strategy", ["all", pytest.param("tensor", marks=SLOW)])
def test_every_strategy_trains_as_one_device(strategy):
    one, expected, _ = three_steps(ONE)
    many, found, _ = three_steps(*STRATEGIES[strategy])
    for a, b in zip(one, many, strict=True):
        for name in a:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-5, err_msg=name)
    for a, b in zip(expected[1:], found[1:], strict=True):
        a, b = (without_key_biases(vars(s) | {"mu": s.optimizer[1].mu}) for s in (a, b))
        for tree in ("params", "ema"):
            assert relative(b[tree], a[tree]) < 1e-5
        # Adam's first moments are sums of the clipped gradients. Their smallest leaves are left
        # over from larger numbers that cancel, so that these keep fewer digits.
        assert relative(b["mu"], a["mu"]) < 3e-4
        whole = [jax.flatten_util.ravel_pytree(x["mu"])[0] for x in (b, a)]
        assert relative(*whole) < 1e-5


def without_key_biases(tree, name=""):
    """A key's bias shifts all scores of a query alike, so that its gradient is rounding noise."""
    return {
        child: without_key_biases(value, child) if isinstance(value, dict) else value
        for child, value in tree.items()
        if (name, child) != ("key", "bias")
    }


def test_a_new_state_is_sharded_from_the_start():
    config = make_config(**{"optimizer.name": "adamw", "optimizer.ema_decay": 0.9})
    factory = factory_of(config, partitioner_of(MANY, config))
    state = factory.create(0)
    assert jax.tree.map(lambda x: x.sharding, state) == factory.shardings
    # On the host: eager operations on several devices may wait for each other.
    state = jax.device_get(state)
    assert state.step == 0 and not optax.tree.norm(state.optimizer[1].mu)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    assert optax.tree.norm(state.params) > 1


@pytest.mark.parametrize(
    ("strategy", "params", "others"),
    [("tensor", (2, 16, 16), (2, 16, 16)), ("optimizer", (2, 32, 64), (2, 4, 64))],
)
def test_state_is_split_as_the_tables_say(strategy, params, others):
    """The optimizer's state and the average may be split further than the parameters.

    That a step keeps these shardings, `three_steps` makes sure.
    """
    sizes, rules = STRATEGIES[strategy]
    config = make_config(**{"optimizer.name": "adamw", "optimizer.ema_decay": 0.9})
    config.sharding.optimizer_rules = rules
    state = factory_of(config, partitioner_of(sizes, config)).abstract
    path = ("decoder", "unimodal", "layers", "mlp", "up", "kernel")
    trees = (state.params, state.optimizer[1].mu, state.optimizer[1].nu, state.ema)
    kernels = [functools.reduce(lambda node, name: node[name], path, tree) for tree in trees]
    assert {kernel.shape for kernel in kernels} == {(2, 32, 64)}
    shapes = [kernel.sharding.shard_shape(kernel.shape) for kernel in kernels]
    assert shapes == [params, others, others, others]


def test_factored_moments_are_split_as_what_is_left_of_their_parameter():
    config = make_config(**{"model.text.width": 128, "model.text.mlp_dim": 256})
    state = factory_of(config, partitioner_of((1, 2, 4), config)).abstract
    moments = state.optimizer[1][0]
    for tree, shape, spec in [
        (moments.v_row, (2, 128), (None, "fsdp")),
        (moments.v_col, (2, 256), (None, "tensor")),
    ]:
        leaf = tree["decoder"]["unimodal"]["layers"]["mlp"]["up"]["kernel"]
        assert leaf.shape == shape
        assert tuple(leaf.sharding.spec) == spec


def test_counters_are_summed_over_the_batch():
    assert three_steps(ONE)[0][0]["bad_image"] == sum(range(16))


@functools.cache
def gradients(name, sizes, count=1):
    """Gradient and metrics of a configuration on a mesh, by `count` micro-batches."""
    config = make_config(**CHANGES[name])
    partitioner = partitioner_of(sizes, config)
    params = params_on(partitioner, config)
    batch = make_batch(0, config.data.num_images)
    if name in GROUPED:
        batch["group"] = np.random.default_rng(1).integers(0, 2, (16, 2), np.int32)
        # A third of the pairs have no wrong caption.
        batch["negative_text"] = np.where(np.arange(16)[:, None] % 3, make_batch(2)["text"], 0)
    if lengths := config.model.image.sequence_lengths:
        batch["image"] = native_images(*lengths, config.model.image.patch)
    if config.loss.distillation.weight:
        for name in (TEACHER_IMAGES, TEACHER_TEXTS):
            batch[name] = np.random.default_rng(2).normal(size=(16, 5)).astype(np.float32)
    if config.data.packing.texts_per_row > 1:
        batch = packed(batch, build(config).data.packing)
    batch = partitioner.put_batch(batch)
    with partitioner.context():
        more = {"alignment": Alignment()} if name not in ("captioning", *HEADS_ALONE) else {}
        compute = jax.jit(gradient_of(config, count=count, more=more))
        return jax.device_get(compute(params, batch, jax.random.key(0)))


def packed(batch, packing):
    order, text, segments, _ = pack(batch["text"], 0, packing)
    batch = {name: array[order] for name, array in batch.items()}
    return batch | {"text": text, "text_segment_ids": segments}


def native_images(length, patch):
    """Images with grids of their own, and bytes of no image in the padding."""
    rng = np.random.default_rng(5)
    patches = rng.integers(0, 256, (16, length, patch**2 * 3)).astype(np.uint8)
    grids = [(rows, int(rng.integers(1, length // rows + 1))) for rows in rng.integers(1, 8, 16)]
    return Patches(patches, np.array(grids, np.int32))


def test_images_as_they_are_on_a_mesh_and_packed_have_the_same_gradient():
    assert_same(gradients("native_packed", MANY, 2), gradients("native", ONE))


def test_packing_changes_no_gradient():
    assert_same(gradients("packed", MANY, 2), gradients("two_losses", ONE))


def assert_same(found, expected):
    (gradient, metrics), (expected_gradient, expected_metrics) = found, expected
    assert relative(*map(without_key_biases, (gradient, expected_gradient))) < 1e-4
    assert metrics.keys() == expected_metrics.keys()
    for name in metrics.keys() - {"captioning_accuracy"}:
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "sizes", "count"),
    [
        ("remat", MANY, 2),
        ("clips", MANY, 1),
        pytest.param("dots", MANY, 1, marks=SLOW),
        pytest.param("pairs", MANY, 4, marks=SLOW),
        pytest.param("contrastive", MANY, 4, marks=SLOW),
        pytest.param("captioning", ONE, 4, marks=SLOW),
    ],
)
def test_a_mesh_micro_batches_and_remat_change_no_gradient(name, sizes, count):
    """Each program differs from one step of one device in as much as goes together."""
    one = gradients("all" if name in ("remat", "dots") else name, ONE)
    assert_same(gradients(name, sizes, count), one)
    frozen = {part for part, tree in one[0].items() if not optax.tree.norm(tree)}
    assert frozen == ({"image_encoder"} if name == "clips" else set())
    if name not in ("contrastive", "captioning"):
        assert one[1]["classification_loss"] > 0
    if name in ("remat", "dots"):
        assert one[1]["matching_loss"] > 0


def test_rematerialization_is_chosen_for_each_tower():
    """More matmuls are executed where more is computed again."""

    def executed(**changes):
        config = make_config(**changes)
        params = factory_of(config, partitioner_of((1, 1, 1), config)).abstract.params
        compute = gradient_of(config)
        return hardware_flops(jax.make_jaxpr(compute)(params, make_batch(), jax.random.key(0)))

    nothing, both = executed(), executed(**{"model.remat": "full"})
    image = executed(**{"model.remat": "full", "model.text.remat": "none"})
    text = executed(**{"model.text.remat": "full"})
    assert nothing < min(image, text) and max(image, text) < both
    assert both - text == image - nothing


@pytest.mark.slow
def test_a_batch_32_times_as_large_in_micro_batches():
    """The gradient of one pass; and memory that grows by what each further example needs at least.

    That is its pixels' and embeddings' share, far less than its activations in one pass.
    """
    rows, repeats = 64, 32
    config = make_config(**{"train.batch_size": rows})
    config.loss.contrastive.chunk_size = 8  # rows of the similarity matrix at a time
    partitioner = partitioner_of((1, 1, 1), config)
    model = CoCa(model_config(config))
    params = params_on(partitioner, config)
    batch = jax.tree.map(lambda x: np.concatenate([x] * 4), make_batch())
    batch["image"] = np.random.default_rng(0).integers(0, 256, batch["image"].shape, np.uint8)
    key, results, held = jax.random.key(0), [], []

    def compiled(examples, count, config):
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype), batch
        )
        compute = gradient_of(config, count=count)
        return jax.jit(compute).lower(params, shapes, key).compile()

    with partitioner.context():
        whole, pieces = (compiled(rows, count, config) for count in (1, repeats))
        one = compiled(rows // repeats, 1, make_config())
        results = [jax.device_get(f(params, batch, key)[0]) for f in (whole, pieces)]
    held = [f.memory_analysis().temp_size_in_bytes for f in (whole, pieces, one)]
    # The contrastive pooler's gradients are a sum of large terms that nearly cancel.
    assert relative(*map(without_key_biases, reversed(results))) < 3e-4
    state = sum(x.nbytes for x in jax.tree.leaves(params))
    # Beyond the running sum of the gradients and all embeddings: as for one micro-batch.
    embeddings = 4 * 2 * rows * model.config.text.width * 4
    assert held[1] < held[2] + 2 * state + embeddings < held[0]


def test_temperature_stops_at_its_floor():
    rising = {"logit_scale": jnp.float32(9), "image_encoder": {"kernel": jnp.float32(9)}}
    found = ContrastiveLoss(temperature_floor=0.01).constrain(rising)
    np.testing.assert_allclose(found["logit_scale"], np.log(100), rtol=1e-6)
    assert found["image_encoder"]["kernel"] == 9


def test_moving_average_follows_the_parameters():
    _, states, _ = three_steps(ONE)
    for before, after in itertools.pairwise(states):
        expected = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, before.ema, after.params)
        assert relative(after.ema, expected) < 1e-6


def test_a_compiler_option_that_does_not_exist_is_named():
    config = make_config()
    partitioner = partitioner_of((1, 1, 1), config)
    traced = jax.jit(lambda x: x + 1).trace(1)
    with pytest.raises(UserError, match=r"config\.compiler_options.*'xla_nonsense'"):
        compile_traced(traced, partitioner, (("xla_nonsense", True),))
    with pytest.raises(UserError, match=r"compiler_options.*'x' is not a valid bool"):
        compile_traced(traced, partitioner, (("xla_cpu_enable_fast_math", "x"),))
    options = (("xla_cpu_enable_fast_math", False),)
    assert compile_traced(traced, partitioner, options)(1) == 2


SWITCHED = {
    "micro-batches": {
        "loss.contrastive.chunk_size": 4,
        "loss.captioning.chunk_size": 8,
        "model.dropout": 0.1,
        "model.stochastic_depth": 0.1,
        "model.image.patch_dropout": 0.5,
        "optimizer.layer_decay": 0.9,
        "optimizer.ema_decay": 0.9,
        "optimizer.name": "lion",  # Optax's Adam itself mixes types
        "optimizer.schedule": "rsqrt",
        "train.grad_accum_steps": 2,
    },
    "sigmoid and head": HEAD | {"loss.contrastive.kind": "sigmoid", "optimizer.name": "adafactor"},
}


@pytest.mark.parametrize("kind", SWITCHED)
def test_switches_of_jax_change_no_type(kind):
    config = make_config(**SWITCHED[kind])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        partitioner = Partitioner(make_mesh(config.mesh, jax.devices()[:1]))
        program = make_program(config, partitioner)
        abstract = program.factory.abstract
        state, metrics = jax.eval_shape(program.step, abstract, make_batch())

    def types(tree):
        return jax.tree.map(lambda x: f"{x.shape} {x.dtype}", tree)

    assert types(state) == types(abstract)
    assert {x.dtype.name for x in jax.tree.leaves((state, metrics))} == {"float32", "int32"}
