import errno

from coca_jax.io.messages import cause, counted, shortened


def test_counts_have_their_words():
    found = [counted(n, "rows") for n in (0, 1, 2, 1200)]
    assert found == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    words = "hidden files have links that are lost"
    assert [counted(n, words) for n in (1, 3)] == [
        "1 hidden file has links that are lost",
        "3 hidden files have links that are lost",
    ]
    assert counted(1, "classes are empty") == "1 class is empty"


def test_causes_do_not_name_the_file_again():
    assert cause(OSError(errno.EACCES, "Permission denied", "/d/x")) == "Permission denied"
    assert cause(OSError("http://h/a?...: HTTP status 403"), "http://h/a?k=1") == "HTTP status 403"
    assert cause(ValueError("Expecting value: line 1"), "/d/x") == "Expecting value: line 1"
    assert cause(TimeoutError()) == "TimeoutError"


def test_long_values_keep_their_ends():
    long = f"/d/{'x' * 1000}/name.txt"
    assert shortened("/d/x") == "/d/x" and len(shortened(long)) <= 200
    assert shortened(long).startswith("/d/x") and shortened(long).endswith("x/name.txt")
