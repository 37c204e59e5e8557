"""The named sizes: parameter counts by the model's own shapes, and each preset as golden text."""

import jax
import pytest

from rtdlm.config import PRESETS, AGIConfig
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from tests.models.golden_text import golden_file, golden_text

# d_model, heads, layers and the parameters that the name promises.
TABLE = {
    "tiny": (256, 4, 4, 10e6),
    "small": (512, 8, 6, 50e6),
    "base": (768, 12, 12, 125e6),
    "large": (1024, 16, 24, 350e6),
    "xlarge": (2048, 32, 32, 1.3e9),
    "xxlarge": (4096, 64, 48, 7e9),
}


def by_shapes(config: AGIConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(TMSModel(config).shapes))


def test_the_table_names_every_preset() -> None:
    assert list(TABLE) == list(PRESETS)


@pytest.mark.parametrize("preset", TABLE)
def test_a_preset_has_the_size_of_its_name(preset: str) -> None:
    d_model, heads, layers, parameters = TABLE[preset]
    config = AGIConfig.from_preset(preset)
    assert (config.d_model, config.num_heads, config.num_layers) == (d_model, heads, layers)
    assert config.experts.num_experts == 0, "the dense form"
    assert by_shapes(config) == pytest.approx(parameters, rel=0.1)
    assert by_shapes(config) == count_parameters(config).total == count_parameters(config).active


@pytest.mark.parametrize("preset", TABLE)
def test_a_preset_is_its_golden_text(preset: str) -> None:
    golden = golden_file(preset).read_text(encoding="utf-8")
    assert golden_text(preset) == golden, "if meant: python -m tests.models.golden_text"


def test_experts_are_an_option_of_every_preset_and_report_active_and_total() -> None:
    config = AGIConfig.from_preset("tiny", experts={"num_experts": 8, "top_k": 2})
    count = count_parameters(config)
    assert count.total == by_shapes(config)
    one_expert = 3 * 256 * 1536
    assert count.total - count.active == 4 * (8 - 2) * one_expert
    dense = count_parameters(AGIConfig.from_preset("tiny"))
    assert count.active - dense.total == 4 * (one_expert + 256 * 8), "one expert more, and routers"
