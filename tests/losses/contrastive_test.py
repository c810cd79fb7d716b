"""The contrastive losses against float64 formulas, on several meshes, and in their memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.losses import sigmoid_loss, softmax_loss
from coca_jax.losses.contrastive import Negatives

# The mesh, and rows of a chunk: one, a number that divides nothing, more than there are.
CASES = [((1, 1, 1), 3), ((8, 1, 1), 1024), ((2, 2, 2), 1)]


def embeddings(count=6, size=5):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, count, size))
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)  # noqa: E731
    return unit(x), unit(x + y)


def softmax_reference(x, y, scale):
    """Equation 4 of the paper, term by term."""
    total = 0.0
    for i in range(len(x)):
        total -= np.log(np.exp(scale * x[i] @ y[i]) / sum(np.exp(scale * x[i] @ t) for t in y))
        total -= np.log(np.exp(scale * y[i] @ x[i]) / sum(np.exp(scale * y[i] @ t) for t in x))
    return total / len(x)


def sigmoid_reference(x, y, scale, bias):
    """Algorithm 1 of the SigLIP paper, pair by pair."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            sign = 1 if i == j else -1
            total -= np.log(1 / (1 + np.exp(-sign * (scale * x[i] @ y[j] + bias))))
    return total / len(x)


def slopes(function, *arrays):
    """Central differences of a float64 function by each entry of each array."""
    found = []
    for k, array in enumerate(arrays):
        gradient = np.zeros(np.shape(array))
        for index in np.ndindex(gradient.shape):
            moved = [np.array(a, float) for a in arrays]
            values = []
            for step in (1e-6, -1e-6):
                moved[k] = np.array(array, float)
                moved[k][index] += step
                values.append(function(*moved))
            gradient[index] = (values[0] - values[1]) / 2e-6
        found.append(gradient)
    return found


def partitioner(mesh):
    return Partitioner(make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))))


def check(loss, reference, arrays, mesh):
    """Loss and gradients on a mesh are those of the formula."""
    function = jax.jit(jax.value_and_grad(loss, tuple(range(len(arrays))), has_aux=True))
    with partitioner(mesh).context():
        (value, accuracy), gradients = function(*(jnp.float32(a) for a in arrays))
    np.testing.assert_allclose(value, reference(*arrays), rtol=1e-5)
    for found, wanted in zip(gradients, slopes(reference, *arrays), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    return accuracy


@pytest.mark.parametrize(("mesh", "chunk_size"), CASES)
def test_softmax_loss_is_the_formula_on_every_mesh(mesh, chunk_size):
    x, y = embeddings(8, 3)
    loss = functools.partial(softmax_loss, chunk_size=chunk_size)
    accuracy = check(loss, softmax_reference, (x, y, 14.3), mesh)
    own = np.arange(8)
    hits = [(np.argmax(x @ y.T, axis=axis) == own).mean() for axis in (0, 1)]
    np.testing.assert_allclose(accuracy, np.mean(hits))


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)])
def test_sigmoid_loss_is_the_formula_on_every_mesh(mesh):
    x, y = embeddings(8, 3)
    loss = functools.partial(sigmoid_loss, chunk_size=3)
    check(loss, sigmoid_reference, (x, y, 10.0, -3.0), mesh)


GROUPS = [7, 3, 7, 5, 3, 7, 0, 9]  # 0: as padding has


def soft_reference(x, y, scale):
    """Equations 2 and 3 of UniCL: the mean over all partners of the group, in each direction."""
    total = 0.0
    for i, group in enumerate(GROUPS):
        same = [j for j, other in enumerate(GROUPS) if other == group]
        for a, b in ((x, y), (y, x)):
            norm = sum(np.exp(scale * a[i] @ other) for other in b)
            total -= np.mean([np.log(np.exp(scale * a[i] @ b[j]) / norm) for j in same])
    return total / len(x)


def grouped_sigmoid_reference(x, y, scale, bias):
    total = 0.0
    for i, group in enumerate(GROUPS):
        for j, other in enumerate(GROUPS):
            sign = 1 if group == other else -1
            total -= np.log(1 / (1 + np.exp(-sign * (scale * x[i] @ y[j] + bias))))
    return total / len(x)


def group_rows():
    """The groups as two numbers each, of which either may be the same in two groups."""
    return jnp.array([[group % 2, group] for group in GROUPS], jnp.int32)


@pytest.mark.parametrize(("mesh", "chunk_size"), CASES)
def test_every_image_of_a_group_matches_every_text_of_it(mesh, chunk_size):
    x, y = embeddings(8, 3)
    loss = functools.partial(softmax_loss, chunk_size=chunk_size, groups=group_rows())
    accuracy = check(loss, soft_reference, (x, y, 14.3), mesh)
    groups = np.array(GROUPS)
    hits = [(groups[np.argmax(x @ y.T, axis=axis)] == groups).mean() for axis in (0, 1)]
    np.testing.assert_allclose(accuracy, np.mean(hits))


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)])
def test_the_sigmoid_loss_has_groups_too(mesh):
    x, y = embeddings(8, 3)
    loss = functools.partial(sigmoid_loss, chunk_size=3, groups=group_rows())
    check(loss, grouped_sigmoid_reference, (x, y, 10.0, -3.0), mesh)


NEGATIVES = np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)  # which pairs have a wrong caption


def negative_reference(x, y, scale, z):
    """Equation 3 of the NegCLIP paper: wrong captions are further texts for each image."""
    total, wrong = 0.0, z[NEGATIVES]
    for i in range(len(x)):
        texts = sum(np.exp(scale * x[i] @ t) for t in (*y, *wrong))
        total -= np.log(np.exp(scale * x[i] @ y[i]) / texts)
        total -= np.log(np.exp(scale * y[i] @ x[i]) / sum(np.exp(scale * y[i] @ t) for t in x))
    return total / len(x)


def grouped_negative_reference(x, y, scale, bias, z):
    total = grouped_sigmoid_reference(x, y, scale, bias)
    logits = scale * x @ z[NEGATIVES].T + bias
    return total + np.log(1 + np.exp(logits)).sum() / len(x)


def with_negatives(loss):
    """A loss as a function of the embeddings of wrong captions, too, which come last."""

    def function(*arrays):
        return loss(*arrays[:-1], negatives=Negatives(arrays[-1], jnp.array(NEGATIVES)))

    return function


@pytest.mark.parametrize(("mesh", "chunk_size"), [CASES[0], CASES[2]])
def test_each_image_is_compared_with_all_wrong_captions(mesh, chunk_size):
    x, y = embeddings(8, 3)
    z = np.where(NEGATIVES[:, None], np.roll(x, 3, axis=0) @ np.diag([1, 1, -1]), x)
    loss = with_negatives(functools.partial(softmax_loss, chunk_size=chunk_size))
    accuracy = check(loss, negative_reference, (x, y, 14.3, z), mesh)
    own, texts = np.arange(8), np.concatenate([y, z[NEGATIVES]])
    hits = (np.argmax(x @ texts.T, axis=1) == own), (np.argmax(y @ x.T, axis=1) == own)
    np.testing.assert_allclose(accuracy, np.mean(hits))


def test_the_sigmoid_loss_has_wrong_captions_too_with_groups():
    x, y = embeddings(8, 3)
    loss = functools.partial(sigmoid_loss, chunk_size=3, groups=group_rows())
    arrays = x, y, 10.0, -3.0, np.roll(x, 3, axis=0)
    check(with_negatives(loss), grouped_negative_reference, arrays, (2, 2, 2))


def test_a_wrong_caption_that_is_the_most_similar_is_no_hit_of_a_group():
    x = jnp.float32(np.eye(8))
    groups, negatives = group_rows(), Negatives(2 * x, jnp.ones(8, bool))
    hits = softmax_loss(x, x, jnp.float32(1), groups=groups, negatives=negatives)[1]
    assert hits == 0.5  # all of text to image


@pytest.mark.parametrize(
    "loss", [softmax_loss, functools.partial(sigmoid_loss, bias=jnp.float32(-3))]
)
def test_groups_of_one_are_no_groups(loss):
    x, y = (jnp.float32(a) for a in embeddings(5, 4))
    alone = jnp.array([[i, 0] for i in range(5)], jnp.int32)
    values = [loss(x, y, jnp.float32(7), groups=groups) for groups in (None, alone)]
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_the_mean_of_both_directions_is_half_the_sum_and_gradients_scale():
    x, y = (jnp.float32(a) for a in embeddings(5, 4))
    scale = jnp.float32(7)
    both, half = (softmax_loss(x, y, scale, kind, 2)[0] for kind in ("sum", "mean"))
    np.testing.assert_allclose(half, both / 2, rtol=1e-6)
    once, thrice = (
        jax.grad(lambda x, k=k: k * softmax_loss(x, y, scale, chunk_size=2)[0])(x) for k in (1, 3)
    )
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [2, 8])
def test_accuracy_counts_both_directions_and_the_first_of_equals(chunk_size):
    images = jnp.array([[1.0, 0], [0, 1], [0, 1]])
    texts = jnp.array([[1.0, 0], [0, 1], [1, 0]])
    # Image to text: 0 and 1 find theirs, 2 finds text 1. Text to image: 0 and 1 do, 2 finds 0.
    accuracy = softmax_loss(images, texts, jnp.float32(1), chunk_size=chunk_size)[1]
    np.testing.assert_allclose(accuracy, 2 / 3)


def plain(x, y, scale):
    logits = scale * x @ y.T
    matching = scale * jnp.sum(x * y, axis=-1)
    both = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(both - 2 * matching), jnp.zeros(())


def largest_array(compiled):
    """Elements of the largest array in a compiled program on one device."""
    shapes = re.findall(r"(?:f32|s32|pred)\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(d) for d in shape.split(",")])) for shape in shapes)


@pytest.mark.parametrize("mesh", [(4, 2, 1)])
def test_no_device_ever_holds_all_its_rows(mesh):
    n, e, chunk_size = 512, 4, 16
    split = partitioner(mesh)
    rows = jax.ShapeDtypeStruct((n, e), jnp.float32, sharding=split.batch)
    arguments = rows, rows, jax.ShapeDtypeStruct((), jnp.float32, sharding=split.replicated)
    with split.context():
        ours, theirs = (
            jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True)).lower(*arguments).compile()
            for loss in (functools.partial(softmax_loss, chunk_size=chunk_size), plain)
        )
    assert largest_array(ours) <= chunk_size * n
    assert largest_array(theirs) >= n * n // split.batch_shards
