import pytest
from reference.open_clip import recorded


@pytest.fixture(scope="session", params=["square", "uneven", "narrow"])
def theirs(request):
    return recorded(request.param)


@pytest.fixture(scope="session")
def square():
    return recorded("square")
