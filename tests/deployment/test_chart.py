"""What the chart asks of Kubernetes, in the cases that people have."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rtdlm import train
from rtdlm.config import build_config
from rtdlm.config.command_line import UNFINISHED, USER_MISTAKE
from tests.deployment.conftest import CHART, ROOT, Rendered, example, helm, render

# The oldest Kubernetes that the chart admits, and the newest whose schema there is.
OLDEST = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"][2:].rpartition(".")[0]
VERSIONS = (OLDEST, kubernetes_validate.latest_version())

CASES: dict[str, list[str]] = {
    "cpu": [],
    "two CPU nodes": ["--set=nodes=2"],
    "gpu": [example("gpu")],
    "gpu on one node": [example("gpu"), "--set=nodes=1", "--set=cache.onVolume=false"],
    "tpu": [example("tpu")],
    "no network policy": ["--set=networkPolicy.enabled=false"],
    "metrics": ["--set=metrics.enabled=true,metrics.namespace=monitoring"],
    "metrics from anywhere": ["--set=metrics.enabled=true"],
    "a claim that is there": ["--set=storage.existingClaim=mine"],
    "a claim of a class": ["--set=storage.storageClass=fast,storage.size=2Ti"],
    "all that can be added": [
        "--set=image.pullSecrets={one,two},serviceAccountName=trainer,priorityClassName=low",
        "--set=nodeSelector.disk=ssd,jobLabels.kueue\\.x-k8s\\.io/queue-name=queue",
        "--set=tolerations[0].key=spot,tolerations[0].operator=Exists",
        "--set=run.env[0].name=XLA_FLAGS,run.env[0].value=--xla_dump_to=/tmp/xla",
        "--set=networkPolicy.egress[0].to[0].ipBlock.cidr=10.0.0.0/8",
        "--set=run.args={--steps,7},run.out=elsewhere",
    ],
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_manifest_is_valid(case: str, version: str) -> None:
    manifests = render(*CASES[case])
    assert {"Job", "Service", "ConfigMap"} <= set(manifests)
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_refuses_what_kubernetes_does_not_know() -> None:
    job = render()["Job"]
    job["spec"]["backoffLimitPerIndexes"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="backoffLimitPerIndexes"):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


# ----------------------------------------------------------------------------------- the processes


def test_a_lone_process_is_told_of_no_others() -> None:
    manifests = render()
    assert manifests["Job"]["spec"]["completions"] == 1
    assert not {name for name in manifests.environment if name.startswith("RTDLM_")} - {
        "RTDLM_CACHE_DIR"
    }


@pytest.mark.parametrize(("name", "nodes"), [("gpu", 2), ("tpu", 4)])
def test_processes_find_the_first_one_by_its_name(name: str, nodes: int) -> None:
    manifests = render(example(name))
    job, service = manifests["Job"]["spec"], manifests["Service"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == (
        ("Indexed", nodes, nodes)
    )
    # An indexed Job calls its pods NAME-INDEX; under a headless service of the subdomain's name
    # that is a name in the DNS, before the pod is ready.
    first = f"{manifests['Job']['metadata']['name']}-0.{service['metadata']['name']}"
    assert manifests.environment["RTDLM_COORDINATOR"] == f"{first}:8476"
    assert manifests.environment["RTDLM_NUM_PROCESSES"] == str(nodes)
    assert "RTDLM_PROCESS_ID" not in manifests.environment  # JOB_COMPLETION_INDEX is
    assert manifests.pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    labels = manifests["Job"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert 8476 in [port["port"] for port in service["spec"]["ports"]]


@pytest.mark.parametrize("release", ["a" * 53, "7b.example", "run"])
def test_names_are_dns_labels_whatever_the_release_is_called(release: str) -> None:
    result = helm("template", release, str(CHART), "--set=nodes=2")
    name = Rendered(result.stdout)["Job"]["metadata"]["name"]
    assert len(f"{name}-99999") <= 63
    assert name[0].isalpha() and "." not in name


def test_a_group_restarts_whole_and_a_mistake_ends_it() -> None:
    spec = render(example("gpu"))["Job"]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (6, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    rules = spec["podFailurePolicy"]["rules"]
    codes = {
        rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule
    }
    assert codes == {"FailJob": [USER_MISTAKE], "Ignore": [UNFINISHED]}
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {
        "train"
    }
    assert rules[-1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


# ------------------------------------------------------------------------------------- the devices


@pytest.mark.parametrize(
    ("name", "devices", "selector", "platforms"),
    [
        (
            "gpu",
            {"nvidia.com/gpu": 8},
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
            "cuda,cpu",
        ),
        (
            "tpu",
            {"google.com/tpu": 4},
            {
                "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                "cloud.google.com/gke-tpu-topology": "4x4",
            },
            "tpu,cpu",
        ),
    ],
)
def test_a_pod_asks_for_its_devices_and_their_nodes(
    name: str, devices: dict[str, int], selector: dict[str, str], platforms: str
) -> None:
    manifests = render(example(name))
    for kind in ("requests", "limits"):
        assert devices.items() <= manifests.container["resources"][kind].items()
    assert manifests.pod["nodeSelector"] == selector
    assert [t["key"] for t in manifests.pod["tolerations"]] == list(devices)
    assert manifests.environment["JAX_PLATFORMS"] == platforms
    assert manifests.container["image"] == f"rtdlm-train:{name}"


def test_a_smoke_test_asks_for_no_device_and_any_node() -> None:
    manifests = render()
    assert set(manifests.container["resources"]["limits"]) == {"cpu", "memory"}
    assert not {"nodeSelector", "tolerations"} & set(manifests.pod)
    assert manifests.environment["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize(
    ("topology", "chips", "nodes"), [("4x4", 4, 4), ("2x2x4", 4, 4), ("2x4", 8, 1), ("1x1", 1, 1)]
)
def test_a_slice_is_filled_by_its_hosts(topology: str, chips: int, nodes: int) -> None:
    flags = f"--set=tpu.topology={topology},tpu.chipsPerNode={chips}"
    job = render(example("tpu"), flags, f"--set=nodes={nodes}")["Job"]["spec"]
    assert job["completions"] == nodes
    result = helm("template", "x", str(CHART), example("tpu"), flags, f"--set=nodes={nodes + 1}")
    assert f"nodes={nodes + 1} x tpu.chipsPerNode={chips} are {(nodes + 1) * chips}" in (
        result.stderr
    )


# --------------------------------------------------------------------------------- what is trained


def test_the_yaml_of_a_run_arrives_byte_by_byte(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("# {{ no template }}, 'one' \"two\", ümlaut\npreset: tiny\nseed: 10000000\n")
    sent = render(f"--set-file=run.config={run}")["ConfigMap"]
    assert sent["data"]["run.yaml"] == run.read_text()
    assert sent["immutable"] is True


@pytest.mark.parametrize("case", ["cpu", "gpu", "tpu"])
def test_the_runs_of_the_chart_are_runs(case: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(render(*CASES[case])["ConfigMap"]["data"]["run.yaml"])
    build_config(file=file)


def test_the_container_starts_the_run_that_was_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = render("--set=run.args={--steps,7}")
    mounts = {m["name"]: m["mountPath"] for m in manifests.container["volumeMounts"]}
    file = tmp_path / "run.yaml"
    file.write_text(manifests["ConfigMap"]["data"]["run.yaml"])
    arguments = manifests.container["args"]
    assert arguments[0] == f"--config={mounts['config']}/run.yaml"
    assert {"--out=runs/run", "--resume"} <= set(arguments)
    assert (manifests.container["workingDir"], mounts["data"]) == ("/data", "/data")
    assert "command" not in manifests.container  # the image's own, which is rtdlm.train
    assert '"rtdlm.train"]' in (ROOT / "Dockerfile.train").read_text()
    assert train.main([f"--config={file}", *arguments[1:], "--dry-run"]) == 0
    assert "num_steps: 7" in capsys.readouterr().out


# ------------------------------------------------------------------------------ rights and volumes


@pytest.mark.parametrize("case", CASES)
def test_a_pod_meets_the_restricted_security_standard(case: str) -> None:
    manifests = render(*CASES[case])
    pod, container = manifests.pod["securityContext"], manifests.container["securityContext"]
    assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    assert manifests.pod["automountServiceAccountToken"] is False
    allowed = {"persistentVolumeClaim", "configMap", "emptyDir"}
    assert {kind for v in manifests.pod["volumes"] for kind in v if kind != "name"} <= allowed
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(manifests.pod)


@pytest.mark.parametrize("case", CASES)
def test_a_pod_has_limits_and_a_place_for_all_it_writes(case: str) -> None:
    manifests = render(*CASES[case])
    assert {"cpu", "memory"} <= set(manifests.container["resources"]["limits"])
    volumes = {volume["name"]: volume for volume in manifests.pod["volumes"]}
    mounts = {m["name"]: m["mountPath"] for m in manifests.container["volumeMounts"]}
    assert set(volumes) == set(mounts)
    assert all("sizeLimit" in v["emptyDir"] for v in volumes.values() if "emptyDir" in v)
    for place in (manifests.environment["RTDLM_CACHE_DIR"], manifests.environment["HOME"]):
        assert any(place == m or place.startswith(f"{m}/") for m in mounts.values()), place


def test_the_user_is_the_images() -> None:
    user = render().pod["securityContext"]["runAsUser"]
    assert f"--uid {user} " in (ROOT / "Dockerfile.train").read_text()


def test_large_numbers_stay_whole(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"  # from which Helm reads every number as a float
    values.write_text("user: {uid: 1000650000, gid: 1000650000}\n")
    security = render(f"--values={values}").pod["securityContext"]
    found = [repr(security[key]) for key in ("runAsUser", "runAsGroup", "fsGroup")]
    assert found == ["1000650000"] * 3  # 1.00065e+09 is as large


@pytest.mark.parametrize(("nodes", "mode"), [(1, "ReadWriteOnce"), (2, "ReadWriteMany")])
def test_a_claim_is_made_that_outlives_the_release(nodes: int, mode: str) -> None:
    manifests = render(f"--set=nodes={nodes}")
    claim = manifests["PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == [mode]
    [data] = [v for v in manifests.pod["volumes"] if v["name"] == "data"]
    assert data["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_a_claim_that_is_there_is_taken() -> None:
    manifests = render("--set=storage.existingClaim=mine")
    assert "PersistentVolumeClaim" not in manifests
    [data] = [v for v in manifests.pod["volumes"] if v["name"] == "data"]
    assert data["persistentVolumeClaim"] == {"claimName": "mine"}


# ------------------------------------------------------------------------------------- the network


def test_pods_speak_to_each_other_and_to_the_dns_only() -> None:
    manifests = render(example("gpu"))
    policy = manifests["NetworkPolicy"]["spec"]
    ours = {"podSelector": policy["podSelector"]}
    labels = manifests["Job"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["ingress"] == [{"from": [ours]}]
    dns = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert policy["egress"] == [{"to": [ours]}, dns]


def test_there_is_no_policy_if_none_is_wanted() -> None:
    assert "NetworkPolicy" not in render("--set=networkPolicy.enabled=false")


def scraping(manifests: Rendered) -> dict[str, Any]:
    """Everything in the manifests that leads a scraper to the pods."""
    metadata = manifests["Job"]["spec"]["template"]["metadata"]
    return {
        "annotations": metadata.get("annotations", {}),
        "service": [p["port"] for p in manifests["Service"]["spec"]["ports"] if p["port"] == 9464],
        "container": [
            p["containerPort"] for p in manifests.container["ports"] if p["containerPort"] == 9464
        ],
        "policy": manifests["NetworkPolicy"]["spec"]["ingress"][1:],
    }


def test_nothing_is_scraped_until_it_is_asked_for() -> None:
    assert not any(scraping(render()).values())
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert scraping(render(*CASES["metrics"])) == {
        "annotations": {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": "9464",
            "prometheus.io/path": "/metrics",
        },
        "service": [9464],
        "container": [9464],
        "policy": [{"from": [{"namespaceSelector": monitoring}], "ports": [{"port": 9464}]}],
    }
