import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import LogicallyPartitioned
from jax.sharding import PartitionSpec

from coca_jax.distributed import RULES, Partitioner, make_mesh
from coca_jax.distributed.sharding import undivided


@pytest.fixture
def partitioner():
    return Partitioner(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))


def shape(*sizes, names):
    return LogicallyPartitioned(jax.ShapeDtypeStruct(sizes, jnp.float32), names)


def test_the_table_gives_parameters_their_axes(partitioner):
    found = partitioner.shardings(
        {
            "up": shape(3, 8, 16, names=("layers", "embed", "mlp")),
            "embedding": shape(32, 8, names=("vocab", "embed")),
            "scale": jax.ShapeDtypeStruct((), jnp.float32),
        }
    )
    assert found["up"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert found["embedding"].spec == PartitionSpec("tensor", "fsdp")
    assert found["scale"].spec == PartitionSpec()


def test_a_batch_is_split_over_data_and_fsdp(partitioner):
    assert partitioner.batch_shards == 4
    rows = np.arange(8 * 3).reshape(8, 3)
    array = partitioner.put_batch({"x": rows})["x"]
    np.testing.assert_array_equal(array, rows)
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 3)}


def test_whole_arrays_are_split_the_same_way(partitioner):
    rows = np.arange(8 * 3).reshape(8, 3)
    array = partitioner.put_whole({"x": rows})["x"]
    np.testing.assert_array_equal(array, rows)
    assert array.sharding == partitioner.put_batch({"x": rows})["x"].sharding


def test_a_lone_process_has_the_whole_batch(partitioner):
    assert partitioner.share() == (0, 1)


def test_other_rules_give_other_shardings():
    rules = [(name, None if name == "embed" else to) for name, to in RULES]
    partitioner = Partitioner(make_mesh({"data": 1, "fsdp": 8, "tensor": 1}), rules)
    assert partitioner.shardings(shape(8, 8, names=("embed", "mlp"))).spec == PartitionSpec(
        None, "tensor"
    )


def test_undivided_names_each_array(partitioner):
    boxed = {
        "good": shape(4, 4, names=("embed", "mlp")),
        "bad": shape(4, 5, names=("embed", "mlp")),
    }
    abstract = partitioner.abstract(boxed)
    problems = undivided(abstract, jax.tree.map(lambda x: x.sharding, abstract))
    assert len(problems) == 1
    assert problems[0].startswith("bad [4, 5]")
