import pytest

from coca_jax.errors import UserError
from coca_jax.models import PRESETS, preset
from coca_jax.planning import parameter_counts

MILLION = 1e6


@pytest.mark.parametrize(
    ("name", "image", "decoder", "total"),
    [("base", 86, 297, 383), ("large", 303, 484, 787)],
)
def test_parameter_counts_are_the_papers(name, image, decoder, total):
    counts = parameter_counts(PRESETS[name])
    assert counts["image_encoder"] / MILLION == pytest.approx(image, rel=0.01)
    assert counts["decoder"] / MILLION == pytest.approx(decoder, rel=0.01)
    assert sum(counts.values()) / MILLION == pytest.approx(total, rel=0.02)


def test_the_largest_prints_as_in_the_papers_table():
    counts = parameter_counts(PRESETS["2b"])
    assert f"{counts['image_encoder'] / 1e9:.0f}" == "1"
    assert f"{counts['decoder'] / 1e9:.1f}" == "1.1"
    assert f"{sum(counts.values()) / 1e9:.1f}" == "2.1"


def test_unknown_preset_names_those_there_are():
    with pytest.raises(UserError, match=r"'huge'.*base.*large"):
        preset("huge")
