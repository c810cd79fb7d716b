"""Which installed versions can compile for GPUs."""

import pytest

from coca_jax.planning.cuda import IncompletePlugin, incomplete_plugin, plugin_error

CUDA12, CUDA13 = "jax-cuda12-plugin", "jax-cuda13-plugin"


@pytest.mark.parametrize(
    ("jaxlib", "plugins", "words"),
    [
        ("0.9.2", {CUDA13: "0.9.2"}, "jaxlib 0.9.2 compiles for no GPU"),
        ("0.10.0", {CUDA12: "0.10.0"}, "jax-cuda12-plugin is installed"),
        ("0.11.2", {CUDA13: "0.10.0"}, "jax-cuda13-plugin 0.10.0 does not fit jaxlib 0.11.2"),
        ("0.11.2", {CUDA13: "0.11.2"}, None),
        ("0.11.2", {CUDA12: "0.10.0", CUDA13: "0.11.2"}, None),
    ],
)
def test_plugins_that_do_not_fit_are_named(jaxlib, plugins, words):
    error = plugin_error({"jaxlib": jaxlib, CUDA12: None, CUDA13: None} | plugins)
    assert error is None if words is None else words in error


def test_only_a_cudnn_that_is_missing_makes_a_plugin_incomplete():
    assert isinstance(incomplete_plugin(RuntimeError("cuDNN is not detected.")), IncompletePlugin)
    assert incomplete_plugin(RuntimeError("INTERNAL: cuDNN graph failed to build")) is None
