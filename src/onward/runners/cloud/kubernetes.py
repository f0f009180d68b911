"""Target `kubernetes`: manifests for `kubectl apply -f manifests/`, and what an operator fills in beside them.

The pods run as `docker` runs the image; scaling follows what waits in Onward's queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onward.runners.cloud.deployment import LIVE, METRICS, PORT, READY, SCRATCH, UID, Deployment
from onward.runners.cloud.yaml_text import document

PORT_NAME = "http"
_PRE_STOP_S = 5
_CLIENT = "onward-client"
_OF_STORE = ("ONWARD_STORE", "ONWARD_KEY")
_SECRET_COMMENT = """Fill it in, keep it out of version control, and apply it first. ONWARD_STORE is PostgreSQL, which
all replicas share; ONWARD_KEY opens what is sealed there: 32 random bytes in base64 (openssl rand -base64 32)."""
_ADAPTER_COMMENT = """Values for the Helm chart prometheus-adapter, which tells the autoscaler how long the queues are.
Prometheus has to scrape the pods with the labels namespace and pod: the annotations prometheus.io/… ask for it."""


def write(deployment: Deployment, folder: Path) -> tuple[str, ...]:
    """Write manifests into an empty folder; returns what a person should know besides."""
    manifests = folder / "manifests"
    manifests.mkdir()
    for name, value in objects(deployment).items():
        (manifests / f"{name}.yaml").write_text(document(value), "utf-8")
    adapter = document(_adapter(deployment), comment=_ADAPTER_COMMENT)
    (folder / "prometheus-adapter.values.yaml").write_text(adapter, "utf-8")
    notes = [
        f"push {deployment.image}, then: kubectl apply -f FOLDER/manifests",
        "the autoscaler needs an adapter for its metric: prometheus-adapter.values.yaml",
        f'callers need the label {_CLIENT}: "true" on their pod or namespace',
    ]
    if deployment.decides:
        (folder / "secret.example.yaml").write_text(document(_secret(deployment), comment=_SECRET_COMMENT), "utf-8")
        notes.append("its packages decide: fill in secret.example.yaml and apply it first")
    return tuple(notes)


def objects(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The objects by the names of their files, in the order in which they are of use."""
    return {
        "serviceaccount": _object(deployment, "v1", "ServiceAccount", automountServiceAccountToken=False),
        "networkpolicy": _network_policy(deployment),
        "service": _service(deployment),
        "deployment": _deployment(deployment),
        "poddisruptionbudget": _object(
            deployment, "policy/v1", "PodDisruptionBudget",
            spec={"maxUnavailable": 1, "selector": {"matchLabels": selector(deployment)}},
        ),
        "horizontalpodautoscaler": _autoscaler(deployment),
    }  # fmt: skip


def selector(deployment: Deployment) -> dict[str, str]:
    """The labels by which everything finds the pods."""
    return {"app.kubernetes.io/name": "onward", "app.kubernetes.io/instance": deployment.name}


def container(deployment: Deployment) -> dict[str, Any]:
    """The server's container, as every target in a cluster has it."""
    variables: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in deployment.environment().items()
    ]
    if deployment.decides:
        secret = f"{deployment.name}-store"
        variables += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}
            for name in (*_OF_STORE, *deployment.secrets)
        ]
    command = deployment.command()
    memory = f"{deployment.memory_limit_bytes >> 20}Mi"
    wanted = {"cpu": f"{round(deployment.cpus * 1000)}m", "memory": memory}
    limits = wanted | ({"nvidia.com/gpu": 1} if "cuda" in deployment.devices else {})
    return {
        "name": "onward",
        "image": deployment.image,
        "imagePullPolicy": "IfNotPresent",
        "command": command[:1],
        "args": command[1:],
        "env": variables,
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": _probe(READY, every_s=1, failures=deployment.start_limit_s),
        "readinessProbe": _probe(READY, every_s=2, failures=2),
        "livenessProbe": _probe(LIVE, every_s=10, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_S}}},
        # The limit is what the request is: the server makes as many threads as the limit is worth.
        "resources": {"requests": wanted, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": str(SCRATCH)}],
    }


def _probe(path: str, *, every_s: int, failures: int) -> dict[str, Any]:
    asked = {"path": path, "port": PORT}
    return {"httpGet": asked, "periodSeconds": every_s, "timeoutSeconds": 5, "failureThreshold": failures}


def pod_security() -> dict[str, Any]:
    """Who the pod runs as."""
    return {
        "runAsNonRoot": True, "runAsUser": UID, "runAsGroup": UID, "fsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip


def scratch() -> dict[str, Any]:
    """The only place that the server may write to."""
    return {"name": "scratch", "emptyDir": {"sizeLimit": "256Mi"}}


def _deployment(deployment: Deployment) -> dict[str, Any]:
    labels = selector(deployment)
    spread = [
        {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
         "labelSelector": {"matchLabels": labels}}
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]  # fmt: skip
    pod = {
        "serviceAccountName": deployment.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _PRE_STOP_S + deployment.stop_s,
        "securityContext": pod_security(),
        "topologySpreadConstraints": spread,
        "containers": [container(deployment)],
        "volumes": [scratch()],
    }
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": METRICS}
    metadata = {"labels": labels | {"app.kubernetes.io/version": deployment.version}, "annotations": annotations}
    # No number of replicas: the autoscaler has it, and applying this again must not take it back.
    spec = {
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": metadata, "spec": pod},
    }
    return _object(deployment, "apps/v1", "Deployment", spec=spec)


def _service(deployment: Deployment) -> dict[str, Any]:
    port = {"name": PORT_NAME, "port": 80, "targetPort": PORT_NAME, "protocol": "TCP", "appProtocol": "http"}
    spec = {"type": "ClusterIP", "selector": selector(deployment), "ports": [port]}
    return _object(deployment, "v1", "Service", spec=spec)


def _autoscaler(deployment: Deployment) -> dict[str, Any]:
    queues: list[dict[str, Any]] = [
        {"type": "Pods", "pods": {"metric": {"name": name},
                                  "target": {"type": "AverageValue", "averageValue": str(target)}}}
        for name, target in deployment.queue_metrics.items()
    ]  # fmt: skip
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.name},
        "minReplicas": deployment.min_replicas,
        "maxReplicas": deployment.max_replicas,
        "metrics": queues,
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15}]},
            "scaleDown": {"stabilizationWindowSeconds": 300, "policies": [
                {"type": "Percent", "value": 25, "periodSeconds": 60}]},
        },
    }  # fmt: skip
    return _object(deployment, "autoscaling/v2", "HorizontalPodAutoscaler", spec=spec)


def _network_policy(deployment: Deployment) -> dict[str, Any]:
    clients = {"matchLabels": {_CLIENT: "true"}}
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    callers = [{"podSelector": clients}, {"namespaceSelector": clients}, {"namespaceSelector": monitoring}]
    egress: list[dict[str, Any]] = []
    if deployment.decides:  # names, the store, and webhooks
        egress = [
            {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
            {"ports": [{"protocol": "TCP", "port": 5432}, {"protocol": "TCP", "port": 443}]},
        ]
    spec = {
        "podSelector": {"matchLabels": selector(deployment)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": callers, "ports": [{"protocol": "TCP", "port": PORT_NAME}]}],
        "egress": egress,
    }
    return _object(deployment, "networking.k8s.io/v1", "NetworkPolicy", spec=spec)


def _secret(deployment: Deployment) -> dict[str, Any]:
    values = {"ONWARD_STORE": "postgresql://USER:PASSWORD@HOST:5432/DATABASE", "ONWARD_KEY": "FILL-IN"}
    values |= dict.fromkeys(deployment.secrets, "FILL-IN")
    secret = _object(deployment, "v1", "Secret", type="Opaque", stringData=values)
    secret["metadata"]["name"] = f"{deployment.name}-store"
    return secret


def _adapter(deployment: Deployment) -> dict[str, Any]:
    rules = [
        {
            "seriesQuery": f'{name}{{namespace!="",pod!=""}}',
            "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
            "name": {"as": name},
            "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
        }
        for name in deployment.queue_metrics
    ]
    return {"rules": {"default": False, "custom": rules}}


def _object(deployment: Deployment, version: str, kind: str, **members: Any) -> dict[str, Any]:
    labels: Mapping[str, str] = selector(deployment) | {
        "app.kubernetes.io/version": deployment.version, "app.kubernetes.io/managed-by": "onward",
    }  # fmt: skip
    metadata = {"name": deployment.name, "namespace": deployment.namespace, "labels": dict(labels)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **members}
