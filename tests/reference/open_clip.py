"""OpenCLIP's tiny models, and what OpenCLIP itself made of them."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import load_file

from coca_jax.interop import open_clip, open_clip_config

FOLDER = pathlib.Path(__file__).parent.parent / "fixtures/open_clip"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A model of OpenCLIP's, and its recorded outputs."""

    file: pathlib.Path
    settings: dict
    tensors: dict
    outputs: dict

    def config(self, shifted=True):
        """Our configuration of it."""
        config = open_clip_config.model_config(self.settings)
        text = dataclasses.replace(config.text, shifted_cls_mask=shifted)
        return dataclasses.replace(config, text=text)

    def params(self):
        """Our parameters of it."""
        params = open_clip.from_open_clip(self.tensors, self.config())
        return jax.tree.map(jnp.asarray, params)


def recorded(name):
    """One of `square`, `uneven` and `narrow`."""
    file = FOLDER / f"{name}.safetensors"
    with safetensors.safe_open(file, "numpy") as opened:
        settings = json.loads(opened.metadata()["config"])
    with np.load(FOLDER / f"{name}.outputs.npz") as outputs:
        return Recorded(file, settings, load_file(file), dict(outputs))
