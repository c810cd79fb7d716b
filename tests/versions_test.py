from coca_jax import versions


def test_a_package_that_is_not_there_is_missing(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("numpy", "no-such-package"))
    shown = versions.versions()
    assert shown["no-such-package"] == "missing" and shown["numpy"][0].isdecimal()
