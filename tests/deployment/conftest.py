"""The chart as Helm renders it."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "rtdlm"
RELEASE = "run"


def tool(name: str) -> str:
    """A checker that the development lock installs beside Python; skips where it has none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here; its package has none for this platform")
    return found


class Rendered(dict[str, Any]):
    """The manifests by kind, as one release has at most one of each."""

    def __init__(self, text: str) -> None:
        documents = [d for d in yaml.load_all(text, yaml.CSafeLoader) if d is not None]
        super().__init__({document["kind"]: document for document in documents})
        assert len(self) == len(documents)
        self.text = text

    @property
    def pod(self) -> dict[str, Any]:
        return self["Job"]["spec"]["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        [container] = self.pod["containers"]
        return container

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container["env"]}


@cache
def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True)


def render(*flags: str) -> Rendered:
    """The manifests that `helm install` would send."""
    result = helm("template", RELEASE, str(CHART), *flags)
    assert result.returncode == 0, result.stderr
    return Rendered(result.stdout)


def example(name: str) -> str:
    return f"--values={CHART / 'examples' / name}.yaml"
