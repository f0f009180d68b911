"""The manifests are what Kubernetes 1.37 takes, and what they say of each other is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from onward.runners.cloud import kubernetes
from onward.runners.cloud.deployment import LIVE, PORT, READY, Deployment
from onward.telemetry import ModelCollector, ModelMetrics, StreamCollector, StreamMetrics
from tests.unit.runners.cloud.conftest import Make
from tests.unit.runners.cloud.schemas import check_kubernetes

DEFINITIONS = {
    "Deployment": "apps.v1.Deployment", "Service": "core.v1.Service", "ServiceAccount": "core.v1.ServiceAccount",
    "NetworkPolicy": "networking.v1.NetworkPolicy", "PodDisruptionBudget": "policy.v1.PodDisruptionBudget",
    "HorizontalPodAutoscaler": "autoscaling.v2.HorizontalPodAutoscaler", "Secret": "core.v1.Secret",
}  # fmt: skip


def written(deployment: Deployment, folder: Path) -> dict[str, dict[str, Any]]:
    """The manifests by kind, as they were read from the files."""
    kubernetes.write(deployment, folder)
    files = [*(folder / "manifests").glob("*.yaml"), *folder.glob("secret*.yaml")]
    found = [yaml.safe_load(file.read_text("utf-8")) for file in files]
    return {one["kind"]: one for one in found}


def server(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (one,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(one, dict)
    return one


@pytest.mark.parametrize("decides", [False, True])
def test_every_manifest_is_what_the_published_schema_takes(deployment: Make, tmp_path: Path, decides: bool) -> None:
    manifests = written(deployment(decides=decides), tmp_path)
    assert set(manifests) == set(DEFINITIONS) - (set() if decides else {"Secret"})
    for kind, manifest in manifests.items():
        check_kubernetes(manifest, DEFINITIONS[kind])


def test_the_schema_notices_a_member_that_is_misspelt(deployment: Make, tmp_path: Path) -> None:
    manifest = written(deployment(), tmp_path)["Deployment"]
    manifest["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        check_kubernetes(manifest, DEFINITIONS["Deployment"])


def test_everything_finds_the_pods_by_labels_that_they_have(deployment: Make, tmp_path: Path) -> None:
    manifests = written(deployment(), tmp_path)
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"]
          for one in manifests["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]),
    ]  # fmt: skip
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_names_and_namespaces_are_one(deployment: Make, tmp_path: Path) -> None:
    manifests = written(deployment(namespace="models", decides=True), tmp_path)
    assert {one["metadata"]["namespace"] for one in manifests.values()} == {"models"}
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", manifests["Deployment"]["metadata"]["name"])
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
    secrets = {one["valueFrom"]["secretKeyRef"]["name"] for one in server(manifests)["env"] if "valueFrom" in one}
    assert secrets == {manifests["Secret"]["metadata"]["name"]}
    keys = {one["valueFrom"]["secretKeyRef"]["key"] for one in server(manifests)["env"] if "valueFrom" in one}
    assert keys == set(manifests["Secret"]["stringData"])


def test_ports_are_one_from_the_command_to_the_service(deployment: Make, tmp_path: Path) -> None:
    manifests = written(deployment(), tmp_path)
    one = server(manifests)
    assert one["args"][one["args"].index("--port") + 1] == str(PORT)
    (port,) = one["ports"]
    assert port["containerPort"] == PORT
    assert [one[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")] == [
        PORT
    ] * 3
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["name"]}]
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(PORT)


def test_probes_ask_for_what_they_are_for(deployment: Make, tmp_path: Path) -> None:
    one = server(written(deployment(), tmp_path))
    assert one["livenessProbe"]["httpGet"]["path"] == LIVE
    assert one["readinessProbe"]["httpGet"]["path"] == one["startupProbe"]["httpGet"]["path"] == READY
    assert one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"] >= 60


def test_a_pod_has_the_time_to_drain_before_it_is_killed(deployment: Make, tmp_path: Path) -> None:
    made = deployment()
    manifests = written(made, tmp_path)
    one, pod = server(manifests), manifests["Deployment"]["spec"]["template"]["spec"]
    before = one["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = int(one["args"][one["args"].index("--drain-grace") + 1])
    assert pod["terminationGracePeriodSeconds"] >= before + grace + 2 * 30
    assert pod["terminationGracePeriodSeconds"] == before + made.stop_s


def test_a_pod_may_do_nothing_but_serve(deployment: Make, tmp_path: Path) -> None:
    manifests = written(deployment(), tmp_path)
    one, pod = server(manifests), manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert manifests["ServiceAccount"]["automountServiceAccountToken"] is False
    assert manifests["NetworkPolicy"]["spec"]["egress"] == []
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in one["volumeMounts"]}
    homes = [one["value"] for one in one["env"] if one["name"] in ("HOME", "ONWARD_CACHE")]
    assert all(home.startswith(one["volumeMounts"][0]["mountPath"]) for home in homes)


def test_a_pod_that_decides_reaches_names_the_store_and_webhooks_and_nothing_else(
    deployment: Make, tmp_path: Path
) -> None:
    egress = written(deployment(decides=True), tmp_path)["NetworkPolicy"]["spec"]["egress"]
    assert sorted({port["port"] for rule in egress for port in rule["ports"]}) == [53, 443, 5432]


def test_the_secrets_of_actions_come_from_the_same_secret(deployment: Make, tmp_path: Path) -> None:
    actions = tmp_path / "actions.toml"
    (tmp_path / "out").mkdir()
    manifests = written(deployment(decides=True, actions=actions, secrets=("HOLDS_SECRET",)), tmp_path / "out")
    named = [one["valueFrom"]["secretKeyRef"]["key"] for one in server(manifests)["env"] if "valueFrom" in one]
    assert named == list(manifests["Secret"]["stringData"]) == ["ONWARD_STORE", "ONWARD_KEY", "HOLDS_SECRET"]
    assert server(manifests)["args"][-2:] == ["--actions", "/srv/onward/actions.toml"]


def test_the_example_of_a_secret_holds_none_and_is_not_applied_with_the_rest(deployment: Make, tmp_path: Path) -> None:
    kubernetes.write(deployment(decides=True), tmp_path)
    assert not list((tmp_path / "manifests").glob("*secret*"))
    values = yaml.safe_load((tmp_path / "secret.example.yaml").read_text("utf-8"))["stringData"]
    assert values == {"ONWARD_STORE": "postgresql://USER:PASSWORD@HOST:5432/DATABASE", "ONWARD_KEY": "FILL-IN"}


def test_scaling_follows_a_metric_that_the_server_has_and_the_adapter_knows(deployment: Make, tmp_path: Path) -> None:
    made = deployment()
    manifests = written(made, tmp_path)
    metrics = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    names = [metric["pods"]["metric"]["name"] for metric in metrics]
    models = [ModelMetrics("tiny", "1.0.0")]
    streams = [StreamMetrics("chat", "1.0.0")]
    exposed = {family.name for family in ModelCollector(lambda: models).collect()}
    exposed |= {family.name for family in StreamCollector(lambda: streams).collect()}
    assert names == ["onward_queue_rows"] and set(names) <= exposed
    assert "onward_queued_tokens" in exposed
    adapter = yaml.safe_load((tmp_path / "prometheus-adapter.values.yaml").read_text("utf-8"))
    assert [rule["name"]["as"] for rule in adapter["rules"]["custom"]] == names


def test_the_queue_that_starts_another_replica_is_a_tenth_of_a_second_of_work(deployment: Make) -> None:
    assert deployment().queue_metrics == {"onward_queue_rows": 120}


def test_the_number_of_replicas_is_the_autoscalers_alone(deployment: Make, tmp_path: Path) -> None:
    manifests = written(deployment(min_replicas=3, max_replicas=40), tmp_path)
    assert "replicas" not in manifests["Deployment"]["spec"]
    spec = manifests["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 40)


def test_memory_is_what_was_measured_and_half_more_and_threads_follow_the_limit(
    deployment: Make, tmp_path: Path
) -> None:
    resources = server(written(deployment(cpus=1.5), tmp_path))["resources"]
    assert resources["requests"] == resources["limits"] == {"cpu": "1500m", "memory": "256Mi"}


def test_a_package_for_devices_asks_for_one(deployment: Make, tmp_path: Path) -> None:
    resources = server(written(deployment(providers=("cuda", "cpu")), tmp_path))["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == 1
