"""Options of sampling: what the presets are, and what is refused in which words."""

from typing import Any

import pytest

from rtdlm.config.errors import UserError
from rtdlm.config.sampling import SAMPLING_PRESETS, SamplingConfig


def test_presets_are_these() -> None:
    plain = {"top_k": None, "top_p": None, "min_p": None, "repetition_penalty": 1.0}
    rest = {"max_tokens": 256, "stop": (), "seed": 0}
    golden: dict[str, dict[str, Any]] = {
        "creative": {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 1.1},
        "balanced": {"temperature": 0.8, "top_p": 0.95},
        "precise": {"temperature": 0.3, "top_p": 0.9},
        "deterministic": {"temperature": 0.0},
    }
    assert list(SAMPLING_PRESETS) == list(golden)
    for name, values in golden.items():
        assert vars(SamplingConfig.from_preset(name)) == plain | rest | values


def test_without_options_it_is_the_models_own_distribution() -> None:
    config = SamplingConfig()
    assert (config.temperature, config.repetition_penalty) == (1.0, 1.0)
    assert (config.top_k, config.top_p, config.min_p) == (None, None, None)


def test_overrides_lie_on_top_of_the_preset() -> None:
    config = SamplingConfig.from_preset("balanced", top_p=0.5, seed=3)
    assert config == SamplingConfig(temperature=0.8, top_p=0.5, seed=3)


def test_temperature_zero_takes_the_presets_filters_away() -> None:
    config = SamplingConfig.from_preset("creative", temperature=0.0)
    assert config == SamplingConfig(temperature=0.0, repetition_penalty=1.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -0.5}, "temperature=-0.5 must be 0 (greedy) or a positive number"),
        ({"temperature": float("nan")}, "temperature=nan must be 0 (greedy) or a positive number"),
        ({"top_k": 0}, "top_k=0 must be at least 1; leave it out to keep all tokens"),
        ({"top_p": 1.5}, "top_p=1.5 is outside (0, 1]; leave it out to keep all tokens"),
        ({"min_p": 0.0}, "min_p=0.0 is outside (0, 1]; leave it out to keep all tokens"),
        (
            {"temperature": 0.0, "top_k": 5},
            "top_k=5 has no effect with temperature=0, which takes the likeliest token; "
            "remove top_k or raise temperature",
        ),
        (
            {"repetition_penalty": 0.0},
            "repetition_penalty=0.0 must be positive; 1 penalises nothing",
        ),
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"stop": "end"}, "stop='end' must be a tuple of texts, none of them empty"),
        ({"stop": ("a", "")}, "stop=('a', '') must be a tuple of texts, none of them empty"),
        (
            {"seed": 2**63},
            "seed=9223372036854775808 does not fit 64 bits; choose one between -2**63 and "
            "2**63 - 1",
        ),
    ],
)
def test_refuses(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        SamplingConfig(**options)
    assert str(raised.value) == sentence


def test_a_filter_of_the_users_beside_temperature_zero_is_refused_on_a_preset_too() -> None:
    with pytest.raises(UserError, match="top_p=0.5 has no effect with temperature=0"):
        SamplingConfig.from_preset("balanced", temperature=0.0, top_p=0.5)


def test_names_the_nearest_preset_and_option() -> None:
    with pytest.raises(UserError) as raised:
        SamplingConfig.from_preset("creativ")
    assert str(raised.value) == (
        "unknown sampling preset 'creativ'; did you mean 'creative'? presets are creative, "
        "balanced, precise, deterministic"
    )
    with pytest.raises(UserError, match="unknown option 'topk'; did you mean 'top_k'?"):
        SamplingConfig.from_preset("creative", topk=3)
