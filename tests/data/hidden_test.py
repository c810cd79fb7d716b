import re

import pytest

from coca_jax.data.hidden import PATTERN, is_hidden


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.jpg", "._x.jpg", ".DS_Store", ".ipynb_checkpoints", ".~lock.a.csv#", "~$a.csv"),
        *("__MACOSX", "Icon\r", "Thumbs.db", "thumbs.db", "Desktop.ini", "$RECYCLE.BIN"),
        *("System Volume Information", "lost+found", "@eaDir", "#recycle"),
        *("cat/.hidden.jpg", "__MACOSX/cat/x.jpg", "cat/@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg"),
        *(".x/a.jpg", "./.x", "..."),
    ],
)
def test_what_systems_leave_is_hidden_at_any_depth(name):
    assert is_hidden(name)


@pytest.mark.parametrize(
    "name", ["x.jpg", "cat", "./x.jpg", "../x.jpg", "cat/x.y.jpg", "_x.jpg", "icon", "x~", "", "a/"]
)
def test_what_people_name_is_not(name):
    assert not is_hidden(name)


@pytest.mark.parametrize("name", ["a.jpg", ".", "..", ".a", "..a", "._a", "~$a", "~a", "thumbs.DB"])
@pytest.mark.parametrize("more", ["", "x"])
def test_the_pattern_says_the_same(name, more):
    assert bool(re.match(PATTERN, name + more, re.IGNORECASE)) == is_hidden(name + more)
