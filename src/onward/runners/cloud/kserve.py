"""Target `kserve`: a ServingRuntime, which says how Onward is run, and an InferenceService, which asks for it.

Canaries: apply the new image's InferenceService with `--canary 10`; KServe sends that share to it, in its serverless
deployment mode. Set to 0 the new version takes all, once it is ready.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onward.runners.cloud.deployment import Deployment
from onward.runners.cloud.kubernetes import container, pod_security, scratch
from onward.runners.cloud.yaml_text import documents

FORMAT = "onward"
MOUNTED = "/mnt/models"
_TARGET_CONCURRENCY = 8


def write(deployment: Deployment, folder: Path) -> tuple[str, ...]:
    """Write both objects into `onward.yaml`; returns what a person should know besides."""
    (folder / "onward.yaml").write_text(
        documents([serving_runtime(deployment), inference_service(deployment)]), "utf-8"
    )
    notes = [f"push {deployment.image}, then: kubectl apply -f FOLDER/onward.yaml"]
    if deployment.canary_percent:
        notes.append("canary percentages work in KServe's serverless deployment mode only")
    if deployment.decides:
        notes.append(
            f"its packages decide: they need the secret {deployment.name}-store, as --target kubernetes writes it"
        )
    return tuple(notes)


def runtime_name(deployment: Deployment) -> str:
    """One runtime for each image, so that a canary and what it is compared with keep their own."""
    tag = deployment.image.rpartition(":")[2].rpartition("-")[2]
    return f"{deployment.name}-{''.join(filter(str.isalnum, tag)).lower()[:12]}"


def serving_runtime(deployment: Deployment) -> dict[str, Any]:
    """How KServe runs the image."""
    one = container(deployment)
    if deployment.storage_uri:
        command = deployment.command(repository=MOUNTED)
        one |= {"command": command[:1], "args": command[1:]}
    # KServe knows the container by this name. In its serverless mode the end of a pod and the port's name belong to the
    # proxy beside it, and what a pod's security context says has to be said of the container.
    one["name"] = "kserve-container"
    one["ports"] = [{"containerPort": port["containerPort"], "protocol": "TCP"} for port in one["ports"]]
    del one["lifecycle"]
    whose = {key: value for key, value in pod_security().items() if key != "fsGroup"}
    one["securityContext"] = one["securityContext"] | whose
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": runtime_name(deployment), "namespace": deployment.namespace},
        "spec": {
            "protocolVersions": ["v2"],
            "supportedModelFormats": [{"name": FORMAT, "version": "1", "autoSelect": False}],
            "containers": [one],
            "volumes": [scratch()],
        },
    }


def inference_service(deployment: Deployment) -> dict[str, Any]:
    """What is asked of KServe: this runtime, so many replicas, and for a canary its share."""
    model: dict[str, Any] = {
        "modelFormat": {"name": FORMAT, "version": "1"},
        "protocolVersion": "v2",
        "runtime": runtime_name(deployment),
    }
    if deployment.storage_uri:
        model["storageUri"] = deployment.storage_uri
    predictor: dict[str, Any] = {
        "minReplicas": deployment.min_replicas,
        "maxReplicas": deployment.max_replicas,
        "scaleMetric": "concurrency",
        "scaleTarget": _TARGET_CONCURRENCY,
        "timeout": 60,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "model": model,
    }
    if deployment.canary_percent:
        predictor["canaryTrafficPercent"] = deployment.canary_percent
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": deployment.name, "namespace": deployment.namespace},
        "spec": {"predictor": predictor},
    }
