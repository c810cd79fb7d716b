"""Bicubic resampling with antialiasing, written out in float64."""

import numpy as np


def resampled(table, old, new, first=0):
    """[first + rows * columns, d] for the grid `old`, as it has to be for the grid `new`."""
    table = np.asarray(table, np.float64)
    grid = table[first:].reshape(*old, -1)
    grid = np.einsum("ai,bj,ijd->abd", weights(old[0], new[0]), weights(old[1], new[1]), grid)
    return np.concatenate([table[:first], grid.reshape(new[0] * new[1], -1)])


def weights(old, new):
    """[new, old]: what each old place adds to a new one; the kernel is widened to shrink."""
    scale = old / new
    centers = (np.arange(new) + 0.5) * scale - 0.5
    kernel = cubic((centers[:, None] - np.arange(old)) / max(scale, 1.0))
    return kernel / kernel.sum(axis=1, keepdims=True)


def cubic(x):
    """Keys' kernel with a = -1/2 (IEEE Trans. ASSP 29, 1981, equation 15)."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
