"""Frequencies for longer rows: each scaling by its definition, plane by plane in plain Python."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig, RopeConfig, UserError
from rtdlm.modules.attention import rotation
from rtdlm.modules.attention.rope_scaling import scaled_planes

HEAD, BASE, LENGTH = 16, 10_000.0, 2048


def planes(**fields: object) -> np.ndarray:
    config = AGIConfig().replace(rope=fields).rope
    return scaled_planes(config, head_dim=HEAD, base=BASE).frequency_R


PLAIN = [BASE ** (-2 * i / HEAD) for i in range(HEAD // 2)]


def test_without_scaling_and_divided_evenly() -> None:
    np.testing.assert_allclose(planes(), PLAIN, rtol=1e-12)
    divided = [frequency / 4 for frequency in PLAIN]
    np.testing.assert_allclose(planes(scaling="linear", factor=4.0), divided, rtol=1e-12)


def test_ntk_stretches_the_base_so_that_the_slowest_plane_is_divided() -> None:
    found = planes(scaling="ntk", factor=8.0)
    base = BASE * 8.0 ** (HEAD / (HEAD - 2))
    np.testing.assert_allclose(found, [base ** (-2 * i / HEAD) for i in range(HEAD // 2)])
    assert found[0] == PLAIN[0]
    assert found[-1] == pytest.approx(PLAIN[-1] / 8, rel=1e-12)


def test_llama3_keeps_fast_planes_divides_slow_ones_and_blends_between() -> None:
    found = planes(scaling="llama3", factor=8.0, original_length=LENGTH)
    for frequency, scaled in zip(PLAIN, found, strict=True):
        wavelength = 2 * math.pi / frequency
        if wavelength < LENGTH / 4:
            expected = frequency
        elif wavelength > LENGTH / 1:
            expected = frequency / 8
        else:
            share = (LENGTH / wavelength - 1) / (4 - 1)
            expected = (1 - share) * frequency / 8 + share * frequency
        assert scaled == pytest.approx(expected, rel=1e-12)
    kinds = {round(float(s / f), 6) for f, s in zip(PLAIN, found, strict=True)}
    assert {1.0, 0.125} < kinds, "some planes of every sort"


def test_yarn_ramps_between_its_two_numbers_of_turns_and_lengthens() -> None:
    config = RopeConfig(scaling="yarn", factor=4.0, original_length=LENGTH)
    found = scaled_planes(config, head_dim=HEAD, base=BASE)

    def plane(turns: float) -> float:
        return HEAD * math.log(LENGTH / (turns * 2 * math.pi)) / (2 * math.log(BASE))

    first, last = math.floor(plane(32)), math.ceil(plane(1))
    assert 0 < first < last < HEAD // 2, "some planes of every sort"
    for number, (frequency, scaled) in enumerate(zip(PLAIN, found.frequency_R, strict=True)):
        divided = min(max((number - first) / (last - first), 0), 1)
        expected = divided * frequency / 4 + (1 - divided) * frequency
        assert scaled == pytest.approx(expected, rel=1e-12)
    assert found.length == pytest.approx(0.1 * math.log(4) + 1)
    given = RopeConfig(scaling="yarn", factor=4.0, original_length=LENGTH, attention_factor=1.5)
    turn = rotation(jnp.arange(3)[None], head_dim=HEAD, base=BASE, scaling=given)
    length = np.hypot(np.asarray(turn.cos_BTR), np.asarray(turn.sin_BTR))
    np.testing.assert_allclose(length, 1.5, rtol=1e-6)
    np.testing.assert_allclose(
        np.arctan2(turn.sin_BTR, turn.cos_BTR)[0, 1], found.frequency_R, rtol=1e-6
    )


def test_a_factor_of_one_changes_nothing() -> None:
    for scaling in ("linear", "ntk"):
        np.testing.assert_allclose(planes(scaling=scaling, factor=1.0), PLAIN, rtol=1e-12)
    for scaling in ("yarn", "llama3"):
        fields = {"scaling": scaling, "factor": 1.0, "original_length": LENGTH}
        config = AGIConfig().replace(rope=fields).rope
        found = scaled_planes(config, head_dim=HEAD, base=BASE)
        np.testing.assert_allclose(found.frequency_R, PLAIN, rtol=1e-12)
        assert found.length == 1.0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"factor": 2.0}, "rope.factor=2.0 has no effect with rope.scaling='none'"),
        ({"scaling": "linear"}, "rope.scaling='linear' needs rope.factor"),
        ({"scaling": "yarn", "factor": 2.0}, "rope.scaling='yarn' needs rope.original_length"),
        ({"scaling": "ntk", "factor": 0.5}, "rope.factor=0.5 must be at least 1"),
        (
            {"scaling": "ntk", "factor": 2.0, "original_length": 8},
            "rope.original_length=8 has no effect with rope.scaling='ntk'",
        ),
        (
            {"scaling": "llama3", "factor": 2.0, "original_length": 8, "low_frequency": 4.0},
            "rope.low_frequency=4.0 must be below rope.high_frequency=4.0",
        ),
        (
            {"scaling": "yarn", "factor": 2.0, "original_length": 8, "slow_turns": 40.0},
            "rope.slow_turns=40.0 must be below rope.fast_turns=32.0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        AGIConfig().replace(rope=fields)
    assert sentence in str(caught.value)


def test_without_rotation_nothing_is_scaled() -> None:
    with pytest.raises(UserError, match="rope.scaling='linear' has no effect with position_enc"):
        AGIConfig().replace(position_encoding="learned", rope={"scaling": "linear", "factor": 2.0})
