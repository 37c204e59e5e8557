"""A preset as golden text: its resolved config and the shape of every parameter.

A change of this text is a change of what a preset's name means. If it is meant, write it again:

    python -m tests.models.golden_text
"""

from pathlib import Path

import jax

from rtdlm.config import PRESETS, AGIConfig, to_yaml
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.parallel import path_name

FOLDER = Path(__file__).parent / "golden"


def golden_text(preset: str) -> str:
    """The text of `preset` as the code has it now."""
    config = AGIConfig.from_preset(preset)
    leaves = jax.tree_util.tree_leaves_with_path(TMSModel(config).shapes)
    lines = [f"{path_name(path)} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves]
    total = f"total {count_parameters(config).total:,}"
    return "\n".join([to_yaml(config).rstrip(), "---", *lines, total, ""])


def golden_file(preset: str) -> Path:
    """Where the text of `preset` is committed."""
    return FOLDER / f"{preset}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PRESETS:
        golden_file(name).write_text(golden_text(name), encoding="utf-8")
