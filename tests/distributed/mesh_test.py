import jax
import pytest

from coca_jax.distributed.mesh import make_mesh, mesh_shape
from coca_jax.errors import UserError


@pytest.mark.parametrize(
    ("sizes", "devices", "expected"),
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((1, 2, 4), 8, (1, 2, 4)),
        ((1, 1, 1), 8, (1, 1, 1)),  # fewer than there are
    ],
)
def test_shape(sizes, devices, expected):
    assert (
        mesh_shape(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), devices) == expected
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, 3, 1), r"data=-1 x fsdp=3 x tensor=1: the 8 devices .* divided by 3"),
        ((4, 4, 1), "needs 16 devices, and there are 8"),
        ((-1, -1, 1), "one of them may be -1"),
        ((0, 1, 1), "sizes are positive"),
        ((-1, 16, 1), "cannot be divided by 16"),
    ],
)
def test_errors(sizes, message):
    with pytest.raises(UserError, match=message):
        mesh_shape(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), 8)


def test_mesh_uses_the_first_devices():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 1})
    assert mesh.shape == {"data": 2, "fsdp": 2, "tensor": 1}
    assert list(mesh.devices.flat) == jax.devices()[:4]
