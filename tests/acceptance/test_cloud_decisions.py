"""Packages that decide, deployed: what they keep is where image and manifests say, and shared by the replicas."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import signal
import stat
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import yaml

from onward.runners.cloud.export import CloudOptions, export
from tests.acceptance import sandbox
from tests.acceptance.deciding import LARGE, write_package
from tests.unit.runners.cloud.containerfile import read

VENV = Path(sys.prefix)
needs_sandbox = pytest.mark.usefixtures("sandboxed")
ACTIONS = """format = 1
[[target]]
action = "hold"
packages = ["tiny"]
kind = "webhook"
url = "https://holds.example/holds"
secret_env = "HOLDS_SECRET"
dry_run = true
"""


@needs_sandbox
def test_an_image_that_decides_keeps_its_decisions_in_the_one_place_it_has_for_them(tmp_path: Path) -> None:
    package = tmp_path / "repository" / "tiny" / "1.0.0"
    write_package(package)
    (tmp_path / "actions.toml").write_text(ACTIONS, "utf-8")
    options = CloudOptions(source=str(package), out=tmp_path / "out", targets=("docker",), measure=False,
                           actions=tmp_path / "actions.toml")  # fmt: skip
    context = export(options).out / "docker"
    last = read(context / "Containerfile")[-1]
    variables = dict(word.split("=", 1) for word in shlex.split(last.of("ENV")[0].text))
    variables |= {"HOLDS_SECRET": "s3cret"}  # as run.sh passes it on
    assert "--env HOLDS_SECRET" in (context / "run.sh").read_text("utf-8")
    state = tmp_path / "state"
    state.mkdir()
    root = sandbox.Root(
        shown={"/opt/onward": VENV, "/srv/onward/repository": context / "repository",
               "/srv/onward/actions.toml": context / "actions.toml"},
        writable={last.of("RUN")[0].words[-1]: state},
    )  # fmt: skip
    kept: list[str] = []
    for _ in range(2):  # the second server finds what the first one kept
        with sandbox.started(last.of("ENTRYPOINT")[0].words, root, environment=variables, user=10001,
                             folder=Path("/tmp"), log=tmp_path / "log") as inside:  # fmt: skip
            inside.wait_for(8000, "/v2/health/ready", 200, 60)
            status, body = inside.post(8000, "/models/tiny", {"x": [10.0, 0.0, 0.0]})
            assert status == 200, body
            decision = json.loads(body)["decision"]
            assert decision["outcome"] == "decline"
            kept.append(decision["decision_id"])
            assert [inside.get(8000, f"/decisions/{one}")[0] for one in kept] == [200] * len(kept)
            os.kill(inside.pid, signal.SIGKILL)
    assert (state / "onward.db").exists()


@needs_sandbox
def test_the_replicas_of_a_cluster_share_what_they_decided_by_the_secret_that_was_filled_in(
    tmp_path: Path, postgres_url: str
) -> None:
    package = tmp_path / "repository" / "tiny" / "1.0.0"
    write_package(package)
    (tmp_path / "actions.toml").write_text(ACTIONS, "utf-8")
    targets = ("docker", "kubernetes")
    options = CloudOptions(source=str(package), out=tmp_path / "out", targets=targets, measure=False,
                           actions=tmp_path / "actions.toml")  # fmt: skip
    out = export(options).out
    manifest = yaml.safe_load((out / "kubernetes" / "manifests" / "deployment.yaml").read_text("utf-8"))
    (one,) = manifest["spec"]["template"]["spec"]["containers"]
    secret = yaml.safe_load((out / "kubernetes" / "secret.example.yaml").read_text("utf-8"))["stringData"]
    place = parse_qs(urlsplit(postgres_url).query)["host"][0]  # PostgreSQL's socket takes the place of its network
    url = postgres_url.replace(quote(place, safe=""), "/srv/postgres").replace(place, "/srv/postgres")
    key = base64.b64encode(os.urandom(32)).decode()
    filled = {"ONWARD_STORE": url, "ONWARD_KEY": key, "HOLDS_SECRET": "s3cret"}
    assert secret.keys() == filled.keys()
    environment = {"PATH": "/usr/bin:/bin"} | {entry["name"]: value_of(entry, filled) for entry in one["env"]}
    context = out / "docker"
    root = sandbox.Root(
        shown={"/opt/onward": VENV, "/srv/onward/repository": context / "repository",
               "/srv/onward/actions.toml": context / "actions.toml",
               "/srv/postgres/.s.PGSQL.5432": Path(place) / ".s.PGSQL.5432"},
    )  # fmt: skip
    with contextlib.ExitStack() as replicas:
        mode = stat.S_IMODE(os.stat(place).st_mode)
        replicas.callback(os.chmod, place, mode)
        os.chmod(place, mode | 0o011)  # the folder is PostgreSQL's own; a pod's user goes through it to the socket
        pods = [
            replicas.enter_context(
                sandbox.started([*one["command"], *one["args"]], root, environment=environment, user=10001,
                                folder=Path("/tmp"), log=tmp_path / f"log-{number}")
            )
            for number in range(2)
        ]  # fmt: skip
        for pod in pods:
            pod.wait_for(8000, "/v2/health/ready", 200, 60)
        status, body = pods[0].post(8000, "/models/tiny", {"x": LARGE})
        assert status == 200, body
        decision = json.loads(body)["decision"]["decision_id"]
        status, told = pods[1].get(8000, f"/decisions/{decision}")
        assert status == 200 and json.loads(told)["decision_id"] == decision


@needs_sandbox
def test_with_a_secret_that_nobody_filled_in_nothing_is_decided(tmp_path: Path) -> None:
    package = tmp_path / "repository" / "tiny" / "1.0.0"
    write_package(package)
    options = CloudOptions(source=str(package), out=tmp_path / "out", targets=("docker", "kubernetes"), measure=False)
    out = export(options).out
    manifest = yaml.safe_load((out / "kubernetes" / "manifests" / "deployment.yaml").read_text("utf-8"))
    (one,) = manifest["spec"]["template"]["spec"]["containers"]
    secret = yaml.safe_load((out / "kubernetes" / "secret.example.yaml").read_text("utf-8"))["stringData"]
    environment = {"PATH": "/usr/bin:/bin"} | {entry["name"]: value_of(entry, secret) for entry in one["env"]}
    root = sandbox.Root(shown={"/opt/onward": VENV, "/srv/onward/repository": out / "docker" / "repository"})
    with sandbox.started([*one["command"], *one["args"]], root, environment=environment, user=10001,
                         folder=Path("/tmp"), log=tmp_path / "log") as inside:  # fmt: skip
        inside.wait_for(8000, "/v2/health/ready", 200, 60)  # the store may come later, as any database does
        status, body = inside.post(8000, "/models/tiny", {"x": LARGE})
        assert (status, json.loads(body)["code"]) == (503, "STORE_UNAVAILABLE")


def value_of(entry: dict[str, Any], secret: dict[str, str]) -> str:
    """A variable's value, as the cluster would put it in."""
    return str(entry["value"] if "value" in entry else secret[entry["valueFrom"]["secretKeyRef"]["key"]])
