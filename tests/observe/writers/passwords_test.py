import pytest

from coca_jax.observe.writers.passwords import has_password, hidden

URIS = {
    "http://me:pass@host:5000/a": "http://***@host:5000/a",
    "postgresql://me:pa/ss@host/db": "postgresql://***@host/db",
    "postgresql://me:pa@ss:word@host/db": "postgresql://***@host/db",
    "https://token@host": "https://***@host",
}


@pytest.mark.parametrize("uri", URIS)
def test_a_password_is_noticed_and_hidden_whatever_it_holds(uri):
    assert has_password(uri)
    assert hidden(f"no answer from {uri}, user@mail") == f"no answer from {URIS[uri]}, user@mail"


def test_one_with_a_blank_is_noticed():
    assert has_password("postgresql://me:pa ss@host/db")


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "sqlite:////home/me@work/mlflow.db", "http://host/a@b", "databricks"],
)
def test_others_have_none(uri):
    assert not has_password(uri) and hidden(uri) == uri
