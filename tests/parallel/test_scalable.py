"""`ScalableMesh`: what it prints, and where it puts a batch."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rtdlm import AGIConfig, ScalableMesh
from rtdlm.config import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


def of(devices: int | None = None, **options: Any) -> ScalableMesh:
    config = AGIConfig.from_preset("tiny", **options)
    return ScalableMesh(config, None if devices is None else jax.devices()[:devices])


def test_the_lines_in_the_documentation_print_what_they_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [code] = re.findall(r"```python\n(.*?ScalableMesh\(.*?)```", PAGE.read_text(), re.DOTALL)
    [told] = re.findall(r"print\(mesh\)  # (.*)", code)
    exec(code, {})
    assert capsys.readouterr().out == f"{told}\n"


@pytest.mark.parametrize(
    ("devices", "options", "line"),
    [
        (1, {"mesh": {"strategy": "fsdp"}}, "1 x cpu: one device"),
        (8, {"distributed_training": True}, "8 x cpu: data=8"),
        (8, {"distributed_training": True, "tensor_parallel": True}, "8 x cpu: data=4 x tensor=2"),
        (8, {"mesh": {"strategy": "zero1"}}, "8 x cpu: fsdp=8; split over fsdp: moments"),
        (
            8,
            {"mesh": {"strategy": "zero2"}},
            "8 x cpu: fsdp=8; split over fsdp: gradients, moments",
        ),
        (
            4,
            {"mesh": {"data": 2, "fsdp": 2}},
            "4 x cpu: data=2 x fsdp=2; split over fsdp: parameters, gradients, moments",
        ),
    ],
    ids=str,
)
def test_it_says_how_devices_are_arranged(devices: int, options: dict[str, Any], line: str) -> None:
    assert str(of(devices, **options)) == line


def test_a_batch_is_placed_by_rows_and_tokens() -> None:
    mesh = of(mesh={"data": 2, "context": 2, "tensor": 2}, attention_type="ring")
    assert mesh.axes == {"data": 2, "fsdp": 1, "expert": 1, "context": 2, "tensor": 2}
    batch = {"tokens": np.arange(16).reshape(4, 4), "weights": np.arange(16.0).reshape(4, 4)}
    placed = mesh.place(batch)
    assert placed.keys() == batch.keys()
    for name, array in placed.items():
        pieces = {shard.device: np.asarray(shard.data) for shard in array.addressable_shards}
        for (data, _, _, context, _), device in np.ndenumerate(mesh.mesh.devices):
            rows, tokens = slice(2 * data, 2 * data + 2), slice(2 * context, 2 * context + 2)
            np.testing.assert_array_equal(pieces[device], batch[name][rows, tokens])


def test_a_batch_that_does_not_split_is_refused_before_anything_is_placed() -> None:
    with pytest.raises(UserError, match="^a micro-batch of 12 rows does not split over the mesh's"):
        of(batch_size=12, distributed_training=True)
