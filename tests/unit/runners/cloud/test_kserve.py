"""KServe's objects have only members that its API has, and fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from onward.runners.cloud import kserve
from onward.runners.cloud.deployment import PORT, Deployment
from tests.unit.runners.cloud.conftest import Make
from tests.unit.runners.cloud.schemas import check_kserve

TYPES = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}


def written(deployment: Deployment, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    kserve.write(deployment, folder)
    runtime, service = yaml.safe_load_all((folder / "onward.yaml").read_text("utf-8"))
    return runtime, service


@pytest.mark.parametrize("facts", [{}, {"canary_percent": 10, "decides": True}, {"storage_uri": "s3://models/tiny"}])
def test_every_member_is_of_kserves_api(deployment: Make, tmp_path: Path, facts: dict[str, Any]) -> None:
    for value in written(deployment(**facts), tmp_path):
        check_kserve(value, TYPES[value["kind"]])


@pytest.mark.parametrize("place", ["model", "predictor"])
def test_the_check_notices_a_member_that_is_misspelt(deployment: Make, tmp_path: Path, place: str) -> None:
    _, service = written(deployment(), tmp_path)
    predictor = service["spec"]["predictor"]
    (predictor if place == "predictor" else predictor["model"])["protocol_version"] = "v2"
    with pytest.raises(AssertionError, match="no such member"):
        check_kserve(service, "V1beta1InferenceService")


def test_the_check_reaches_into_what_kserve_has_of_kubernetes(deployment: Make, tmp_path: Path) -> None:
    runtime, _ = written(deployment(), tmp_path)
    runtime["spec"]["containers"][0]["livenessProbe"]["httpget"] = {}
    with pytest.raises(jsonschema.ValidationError, match="httpget"):
        check_kserve(runtime, "V1alpha1ServingRuntime")


def test_the_service_asks_for_the_runtime_that_is_written_with_it(deployment: Make, tmp_path: Path) -> None:
    runtime, service = written(deployment(namespace="models"), tmp_path)
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
    assert runtime["metadata"]["namespace"] == service["metadata"]["namespace"] == "models"


def test_a_new_image_has_a_runtime_of_its_own_so_that_a_canary_is_compared_with_the_old_one(deployment: Make) -> None:
    names = {kserve.runtime_name(deployment(image=f"onward-tiny:1.0.0-{digest}")) for digest in ("0a1b2c", "3d4e5f")}
    assert names == {"onward-tiny-0a1b2c", "onward-tiny-3d4e5f"}


@pytest.mark.parametrize("percent", [0, 10])
def test_a_canary_says_its_share_and_a_promoted_version_none(deployment: Make, tmp_path: Path, percent: int) -> None:
    _, service = written(deployment(canary_percent=percent), tmp_path)
    assert service["spec"]["predictor"].get("canaryTrafficPercent", 0) == percent


def test_a_package_from_elsewhere_is_served_from_where_kserve_puts_it(deployment: Make, tmp_path: Path) -> None:
    runtime, service = written(deployment(storage_uri="s3://models/tiny"), tmp_path)
    (one,) = runtime["spec"]["containers"]
    assert one["args"][:2] == ["serve", "/mnt/models"]
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://models/tiny"


def test_the_container_keeps_to_what_the_serverless_mode_allows(deployment: Make, tmp_path: Path) -> None:
    runtime, service = written(deployment(), tmp_path)
    (one,) = runtime["spec"]["containers"]
    assert one["name"] == "kserve-container"
    assert one["ports"] == [{"containerPort": PORT, "protocol": "TCP"}]
    assert "lifecycle" not in one
    assert one["securityContext"]["runAsNonRoot"] and one["securityContext"]["readOnlyRootFilesystem"]
    assert not {"securityContext", "terminationGracePeriodSeconds"} & set(service["spec"]["predictor"])
