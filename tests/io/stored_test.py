import pytest

from coca_jax.io.stored import Damaged, finite, is_number, is_step, parse_json, read_json

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\0" * 4096, "is empty"),  # what a file system may leave of a file after a crash
        (b'{"a": ', "is not JSON"),
        (b"\xff\xfe\x00", "is not UTF-8 at byte 0"),
        (b'{"a": {"b": 1, "b": 2}}', "has 'b' twice"),
        (DEEP, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_what_is_no_json_is_named(data, said):
    with pytest.raises(Damaged, match=said):
        parse_json(data)


@pytest.mark.parametrize("data", [b"null", b"5", b"[]", b'"text"', b"true"])
def test_another_kind_of_value_is_named(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(Damaged, match=r"holds .* where an object should be"):
        read_json(tmp_path / "a.json")


def test_a_folder_is_no_file_and_an_absent_file_is_absent(tmp_path):
    with pytest.raises(Damaged, match="cannot be read"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


def test_numbers_are_finite_and_steps_count():
    assert is_number(-1.5) and is_number(0)
    wrong = (True, None, "1", float("nan"), float("inf"), 10**400)
    assert not any(is_number(value) for value in wrong)
    assert is_step(0) and not any(is_step(v) for v in (-1, 1.0, True, None, 2**60))


def test_numbers_that_are_not_finite_become_null():
    nan, infinite = float("nan"), float("inf")
    value = {"a": [nan, 1, (infinite, "x")], "b": -infinite, "c": {"d": nan}, "e": True}
    assert finite(value) == {"a": [None, 1, [None, "x"]], "b": None, "c": {"d": None}, "e": True}
