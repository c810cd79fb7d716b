import pytest

from coca_jax.serve.errors import RequestError
from coca_jax.serve.limits import MAX_IMAGES, Admission, Limits


def test_images_of_a_request():
    assert [Limits(most).max_images for most in (8, 2000)] == [8, MAX_IMAGES]


def test_requests_and_their_bytes_are_limited_but_one_is_always_admitted():
    admission = Admission(requests=2, held_bytes=100)
    with admission.admitted(500):
        assert admission.count == 1
        with pytest.raises(RequestError) as refused, admission.admitted(1):
            pass
        assert refused.value.status == 503 and int(refused.value.headers["Retry-After"]) > 0
    with admission.admitted(50), admission.admitted(50):
        with pytest.raises(RequestError), admission.admitted(0):
            pass
        assert admission.count == 2
    assert admission.count == 0
    with pytest.raises(ZeroDivisionError), admission.admitted(100):
        _ = 1 / 0
    with admission.admitted(50), admission.admitted(50):  # what failed gave its place back
        pass
