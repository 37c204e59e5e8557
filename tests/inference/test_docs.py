"""docs/generation.md: the example prints what the page says, and the presets are those it lists."""

import re
from pathlib import Path

import pytest

from rtdlm.config.sampling import SAMPLING_PRESETS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "generation.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text(), re.S)[:2]
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == output


def test_the_presets_are_those_of_the_page() -> None:
    rows = [
        f"| `{name}` | `{' '.join(f'{key}={value}' for key, value in options.items())}` |"
        for name, options in SAMPLING_PRESETS.items()
    ]
    assert "| preset | options |\n|---|---|\n" + "\n".join(rows) + "\n" in PAGE.read_text()
