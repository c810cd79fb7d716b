"""The chips of the table, against each other and against other tables."""

from coca_jax.planning.chips import GENERATIONS, GPUS, TARGETS
from coca_jax.planning.cuda import target_config
from coca_jax.planning.peaks import PEAKS


def test_every_chip_has_a_peak_by_which_its_device_is_known():
    for name, chip in (GENERATIONS | GPUS).items():
        assert PEAKS[chip.kind] > 1e14, name
    for name, target in TARGETS.items():
        assert target.name.startswith(GPUS[name].kind)


def test_the_compiler_and_the_roofline_have_the_same_memory():
    for name, target in TARGETS.items():
        assert 0.95 < target.bandwidth / GPUS[name].memory < 1.01, name
        assert GPUS[name].limit < target.memory


def test_the_compiler_is_given_the_chip():
    text = target_config(GPUS["h100"])
    assert "core_count: 132\n" in text and "cuda_compute_capability { major: 9 }" in text
    assert 'device_description_str: "NVIDIA H100 80GB HBM3"' in text
    assert text.count("{") == text.count("}")
