"""A small data set in memory."""

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, record


def png(image):
    return cv2.imencode(".png", np.asarray(image, np.uint8)[..., ::-1])[1].tobytes()


@pytest.fixture(scope="session")
def plain_source():
    """Record i is a plain image of value i with the caption "picture i" and the label i."""
    return MemorySource(
        record(png(np.full((8, 8, 3), i)), [f"picture {i}"], label=i) for i in range(24)
    )
