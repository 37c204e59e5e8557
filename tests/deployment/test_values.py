"""Every value of the chart does something, and a wrong one is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.conftest import CHART, RELEASE, example, helm

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

# Value -> another one, which must change what Helm renders.
OTHER: dict[str, Any] = {
    "image.repository": "registry.example.org/rtdlm",
    "image.tag": "v1",
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["registry"],
    "accelerator": "gpu",
    "nodes": 2,
    "gpu.perNode": 4,
    "gpu.product": "Tesla-T4",
    "gpu.sharedMemory": "1Gi",
    "tpu.type": "tpu-v6e-slice",
    "tpu.topology": "2x8",
    "tpu.chipsPerNode": 8,
    "run.config": "preset: small\n",
    "run.out": "elsewhere",
    "run.args": ["--steps", "3"],
    "run.env": [{"name": "XLA_FLAGS", "value": "--xla_dump_to=/tmp/xla"}],
    "storage.existingClaim": "mine",
    "storage.size": "1Ti",
    "storage.storageClass": "fast",
    "cache.onVolume": True,
    "cache.size": "1Gi",
    "tmp.size": "1Gi",
    "resources.requests.cpu": "1",
    "resources.requests.memory": "1Gi",
    "resources.limits.cpu": "8",
    "resources.limits.memory": "9Gi",
    "user.uid": 20000,
    "user.gid": 20000,
    "serviceAccountName": "trainer",
    "jobLabels": {"kueue.x-k8s.io/queue-name": "queue"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "priorityClassName": "low",
    "restarts": 1,
    "gracePeriod": 60,
    "coordinatorPort": 1234,
    "networkPolicy.enabled": False,
    "networkPolicy.egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    "metrics.enabled": True,
    "metrics.port": 8000,
    "metrics.namespace": "monitoring",
}

# What must be set for a value to be read at all.
CONTEXT = {
    "gpu": ["--set=accelerator=gpu"],
    "tpu": [example("tpu")],
    "metrics": ["--set=metrics.enabled=true"],
}


def leaves(tree: dict[str, Any], above: str = "") -> set[str]:
    """The dotted names of what is set; an empty mapping is a value."""
    found: set[str] = set()
    for key, value in tree.items():
        deeper = isinstance(value, dict) and value
        found |= leaves(value, f"{above}{key}.") if deeper else {f"{above}{key}"}
    return found


def test_every_value_is_tried() -> None:
    assert set(OTHER) == leaves(VALUES)


@pytest.mark.parametrize("name", OTHER)
def test_every_value_has_an_effect(name: str, tmp_path: Path) -> None:
    tree: Any = OTHER[name]
    for part in reversed(name.split(".")):
        tree = {part: tree}
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(tree))
    context = CONTEXT.get(name.split(".")[0], []) if name != "metrics.enabled" else []
    before = helm("template", RELEASE, str(CHART), *context)
    after = helm("template", RELEASE, str(CHART), *context, f"--values={changed}")
    assert before.returncode == 0, before.stderr
    if name == "tpu.chipsPerNode":  # the same slice has fewer hosts then, which is said
        assert "nodes=4 x tpu.chipsPerNode=8 are 32 chips" in after.stderr
        return
    assert after.returncode == 0, after.stderr
    assert after.stdout != before.stdout


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("nods=2", "Additional property nods is not allowed"),
        ("run.confg=x", "Additional property confg is not allowed"),
        ("metrics.path=/x", "Additional property path is not allowed"),
        ("nodes=0", "nodes: Must be greater than or equal to 1"),
        ("nodes=two", "nodes: Invalid type"),
        ("accelerator=npu", "accelerator: accelerator must be one of the following"),
        ("user.uid=0", "user.uid: Must be greater than or equal to 1"),
        ("coordinatorPort=80", "coordinatorPort: Must be greater than or equal to 1024"),
        ("storage.size=much", "storage.size: Does not match pattern"),
        ("tpu.topology=4by4", "tpu.topology: Does not match pattern"),
        ("run.out=/elsewhere", "run.out: Does not match pattern"),
        ("run.config=", "run.config: String length must be greater than or equal to 1"),
        ("resources.limits.memory=null", "resources.limits: memory is required"),
        ("jobLabels.a.b=c", "jobLabels.a: Invalid type"),
    ],
)
def test_a_wrong_value_is_refused_by_name(flag: str, complaint: str) -> None:
    result = helm("template", RELEASE, str(CHART), f"--set={flag}")
    assert result.returncode != 0
    assert complaint in result.stderr
