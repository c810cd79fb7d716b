"""Files and images as the published ones are."""

import json

import cv2
import numpy as np
import pytest


@pytest.fixture
def write(tmp_path):
    """Writes a file: a text, or JSON; several objects are one a line."""

    def written(content, name="file.json"):
        path = tmp_path / name
        if isinstance(content, tuple):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return written


@pytest.fixture
def draw(tmp_path):
    """Writes images of these names into a folder, each of another gray."""

    def drawn(*names):
        folder = tmp_path / "images"
        for i, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((8, 8, 3), 40 + 20 * i, np.uint8))
        return folder

    return drawn


@pytest.fixture
def rows():
    """The rows of a table."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]
