import os
from collections import Counter

import pytest
from fuzz.drawing import NAME, encoded
from fuzz.records import counts, outcomes
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.data.sources import SourceConfig, open_source

pytestmark = pytest.mark.slow

CONTENTS = {"good": encoded(), "empty": b"", "cut": encoded()[:90]}
IMAGE = st.sampled_from([".jpg", ".JPEG", ".png", ".Tif", ".webp"])
OTHER = st.sampled_from([".txt", ".heic", "", ".jpg.part", ".json"])
PARTS = st.lists(NAME | st.sampled_from([".hidden", "@eaDir", "train", "0.jpg"]), max_size=3)
FILE = st.tuples(PARTS, NAME | st.just("._a"), IMAGE | OTHER, st.sampled_from(list(CONTENTS)))


def write(folder, files):
    """Writes the files, as far as their names can be; returns the relative paths of them."""
    paths = {}
    for parts, name, suffix, content in files:
        path = "/".join(["c", *parts, name + suffix])
        try:
            os.makedirs(os.path.dirname(folder / path), exist_ok=True)
            if not os.path.isdir(folder / path):
                (folder / path).write_bytes(CONTENTS[content])
                paths[path] = content
        except (FileExistsError, NotADirectoryError):  # a file has the name of a folder
            continue
    return paths


@fuzz(60, files=st.lists(FILE, max_size=8), classes=st.integers(1, 3), loop=st.booleans())
def test_every_file_is_a_record_or_counted(folder, files, classes, loop):
    paths = write(folder, files)
    for number in range(classes):
        (folder / f"d{number}").mkdir()
    (folder / "d0/0.png").write_bytes(encoded("PNG"))
    if loop:
        (folder / "d0/again").symlink_to(folder / "d0")
    source = open_source(SourceConfig(format="folder", path=str(folder)))
    hidden = ("/.", "/~$", "/@eaDir")
    shown = [path for path in paths if not any(part in path for part in hidden)]
    suffixes = (".jpg", ".jpeg", ".png", ".tif", ".webp")
    images = [path for path in shown if path.lower().endswith(suffixes)]
    assert len(source) == 1 + len(images)
    found = counts(source)
    assert found["other_files"] == len(shown) - len(images)
    assert (found["hidden"] > 0) == (len(shown) < len(paths))
    assert found["loops"] == loop
    assert found["deeper"] == sum(path.count("/") > 1 for path in images)
    good = 1 + sum(paths[path] == "good" for path in images)
    assert outcomes(source) == +Counter(good=good, bad_image=len(images) + 1 - good)
