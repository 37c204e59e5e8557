"""The linters of charts, YAML and shell have nothing to say."""

import subprocess
from pathlib import Path

import pytest

from tests.deployment.conftest import CHART, ROOT, example, helm, render, tool

SCRIPTS = sorted([ROOT / ".ci" / "run", *(ROOT / "scripts").glob("*.slurm")])


@pytest.mark.parametrize("flags", [[], [example("gpu")], [example("tpu")]])
def test_helm_finds_nothing(flags: list[str]) -> None:
    result = helm("lint", "--strict", str(CHART), *flags)
    assert result.returncode == 0, result.stdout + result.stderr


def yamllint(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [tool("yamllint"), "--strict", "--format=parsable", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)


def test_yamllint_finds_nothing() -> None:
    result = yamllint("helm", "configs")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("flags", [[], [example("gpu")], [example("tpu")]])
def test_no_key_is_rendered_twice(flags: list[str]) -> None:
    """A parser takes the second one silently."""
    rules = "{rules: {key-duplicates: enable}}"
    result = yamllint("-d", rules, "-", text=render(*flags, "--set=metrics.enabled=true").text)
    assert result.returncode == 0, result.stdout
    assert yamllint("-d", rules, "-", text="a: 1\na: 2\n").returncode == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    result = subprocess.run(
        [tool("shellcheck"), "--enable=quote-safe-variables", str(script)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
