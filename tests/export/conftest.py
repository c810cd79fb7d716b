import pytest
from export import runs

OPEN_CLIP = (
    "--config.model.pooler.kind=shared",
    "--config.model.pooler.query_norm=True",
    "--config.model.image.class_token=True",
    "--config.model.image.patch_bias=False",
    "--config.model.image.pre_norm=True",
    "--config.model.text.interleaved=True",
    "--config.model.text.cross_attention_every=2",  # which OpenCLIP's does not have
    "--config.model.text.shifted_cls_mask=True",
    "--config.model.text.tie_embeddings=True",
    "--config.model.embed_dim=24",
    "--config.model.image.remat=full",  # which only a gradient needs
    "--config.model.text.remat=full",
)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model of OpenCLIP's architecture, whose functions are compiled once for all files."""
    return runs.load(runs.make_run(tmp_path_factory.mktemp("run"), *OPEN_CLIP))
