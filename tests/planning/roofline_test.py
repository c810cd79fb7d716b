"""Times of collectives, against numbers worked out by hand."""

import itertools
import types

import pytest

from coca_jax.planning.chips import GENERATIONS, GPUS
from coca_jax.planning.collectives import Collective
from coca_jax.planning.kernels import Kernel
from coca_jax.planning.roofline import kernel_table, roofline
from coca_jax.planning.topologies import Topology

V4 = GENERATIONS["v4"]


def topology(*sides, slices=1):
    places = itertools.product(*map(range, sides))
    devices = [types.SimpleNamespace(coords=place) for place in places]
    return Topology("v4", V4, devices * slices, slices)


SIDE = tuple(range(0, 64, 16))  # chips (0..3, 0, 0) of 4 x 4 x 4: one ring, both ways round
HALF = SIDE[:2]  # a line
PLANE = tuple(range(0, 64, 4))


@pytest.mark.parametrize(
    ("collective", "term", "seconds"),
    [
        (Collective("all-gather", 90, SIDE, 3), "interconnect", 3 * 90 * 3 / 4 / (2 * V4.link)),
        (Collective("all-gather", 90, HALF, 1), "interconnect", 90 / 2 / V4.link),
        (Collective("all-reduce", 90, PLANE, 1), "interconnect", 180 * 15 / 16 / (4 * V4.link)),
        (Collective("all-to-all", 64, (), 1), "interconnect", 63 / (6 * V4.link)),
        (Collective("collective-permute", 90, (), 2), "interconnect", 2 * 90 / V4.link),
        (Collective("send", 90, (), 2), "between_slices", 2 * 90 / V4.network),
    ],
)
def test_collectives(collective, term, seconds):
    pod = topology(4, 4, 4)
    terms, rows = roofline(0, 0, [collective], pod, pod.devices)
    assert terms[term] == pytest.approx(seconds)
    assert sum(terms.values()) == pytest.approx(seconds)
    assert rows[0]["count"] == collective.times
    assert rows[0]["bytes"] == collective.times * collective.size


def test_products_and_memory():
    pod = topology(2, 2, 1)
    terms, rows = roofline(4 * 10**12, 1000, [], pod, pod.devices)
    assert terms["matrix"] == pytest.approx(1 / 275)
    assert terms["memory"] == pytest.approx(1000 / V4.memory)
    assert rows == []


def test_a_group_that_is_not_named_is_a_slice():
    pod = topology(2, 2, 1, slices=2)
    rows = roofline(0, 0, [Collective("all-reduce", 8, (), 1)], pod, pod.devices)[1]
    assert rows[0]["devices"] == 4


H100 = GPUS["h100"]
CLUSTER = Topology("h100:4x8", H100, [None] * 32, 4)


@pytest.mark.parametrize(
    ("group", "within", "between"),
    [
        (tuple(range(8)), 7 / 8 * 90 / H100.link, 0),
        (tuple(range(0, 32, 8)), 0, 3 / 4 * 90 / H100.network),
        # Within each machine, and then an eighth of it between the machines.
        (tuple(range(32)), 7 / 8 * 90 / H100.link, 3 / 4 * 90 / 8 / H100.network),
    ],
)
def test_collectives_of_gpus(group, within, between):
    gather = Collective("all-gather", 90, group, 1)
    terms, _ = roofline(0, 0, [gather], CLUSTER, CLUSTER.devices)
    assert terms["interconnect"] == pytest.approx(within)
    assert terms["between_slices"] == pytest.approx(between)
    reduce = gather._replace(kind="all-reduce", times=3)
    twice, _ = roofline(0, 0, [reduce], CLUSTER, CLUSTER.devices)
    assert sum(twice.values()) == pytest.approx(6 * sum(terms.values()))


@pytest.mark.parametrize("kind", ["collective-permute", "send"])
@pytest.mark.parametrize(
    ("pairs", "term", "rate"),
    [
        ((8, 15, 0, 5), "interconnect", H100.link),
        ((0, 5, 7, 8), "between_slices", H100.network),  # 0 and 5 share a switch, 7 and 8 do not
    ],
)
def test_permutes_are_as_slow_as_their_slowest_pair(kind, pairs, term, rate):
    terms, _ = roofline(0, 0, [Collective(kind, 90, pairs, 2)], CLUSTER, CLUSTER.devices)
    assert terms == {**dict.fromkeys(terms, 0), term: pytest.approx(2 * 90 / rate)}


def test_a_group_of_gpus_that_is_not_named_is_all():
    rows = roofline(0, 0, [Collective("all-reduce", 8, (), 1)], CLUSTER, CLUSTER.devices)[1]
    assert rows[0]["devices"] == 32
    # In each machine, and then an eighth of it between the machines.
    within, between = 2 * 8 * 7 / 8 / H100.link, 2 * 8 * 3 / 4 / 8 / H100.network
    assert rows[0]["seconds"] == pytest.approx(within + between)


def seconds_of(*steps):
    """Seconds by kind of kernels that take one second of matmuls, and collectives of two."""
    two = Collective("all-gather", 2 * H100.link * 8 // 7, tuple(range(8)), 1)
    kernels = {
        "matmul": Kernel("", "matmul", 1, 0, int(800e12)),
        "copy": Kernel("", "copy", 2, int(0.85 * 3.35e12), 0),
        "start": Kernel("", "collective", 1, 8, 0, (two,), starts="x"),
        "start 2": Kernel("", "collective", 1, 8, 0, (two,), starts="y"),
        "wait": Kernel("", "wait", 1, 0, 0, waits="x"),
        "wait 2": Kernel("", "wait", 1, 0, 0, waits="y"),
        "gather": Kernel("", "collective", 1, 8, 0, (two,)),
    }
    table = kernel_table([kernels[step] for step in steps], CLUSTER, CLUSTER.devices)
    return {row["kind"]: round(row["seconds"], 3) for row in table}


def test_kernels_take_the_longer_of_matmuls_and_memory():
    assert seconds_of("matmul", "copy", "matmul") == {"matmul": 2, "copy": 2}
    assert seconds_of("matmul", "gather") == {"matmul": 1, "collective": 2}


def test_asynchronous_collectives_hide_behind_kernels():
    assert seconds_of("start", "matmul", "wait", "matmul") == {"matmul": 2, "collective": 1}
    assert seconds_of("start", "copy", "wait") == {"copy": 2, "collective": 0}
    assert seconds_of("wait", "copy") == {"copy": 2}  # a wait for no collective
    both = "start", "matmul", "start 2", "wait", "wait 2"  # the links do one after the other
    assert seconds_of(*both) == {"matmul": 1, "collective": 3}


def test_a_collective_for_which_the_next_round_of_a_loop_waits_hides_behind_nothing():
    assert seconds_of("wait", "matmul", "start") == {"matmul": 1, "collective": 2}
    # What comes after the loop does not hide it either.
    assert seconds_of("wait", "matmul", "start", "copy") == {
        "matmul": 1,
        "collective": 2,
        "copy": 2,
    }
