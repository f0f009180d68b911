"""What `onward cloud` writes is what runs: the process is started as the files say, probed as they say, and stopped.

No container engine and no cluster runs on the machines that test this. Bubblewrap stands in for the engine.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from onward.package.examples import read_examples
from onward.runners.cloud.export import CloudOptions, Export, export
from onward.runners.cloud.packages import collect
from onward.testing import tiny_package
from tests.acceptance import sandbox
from tests.acceptance.conftest import STOP_TIMEOUT_S, free_port
from tests.acceptance.service_manager import Manager
from tests.unit.runners.cloud.containerfile import Stage, read

VENV = Path(sys.prefix)
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
BODY = {"x": [1.0, 2.0, 3.0]}
needs_sandbox = pytest.mark.usefixtures("sandboxed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The tiny package for every target, units below a folder of the test's."""
    root = tmp_path_factory.mktemp("cloud")
    package = tiny_package(root / "repository" / "tiny" / "1.0.0")
    targets = ("docker", "kubernetes", "kserve", "systemd")
    return export(CloudOptions(source=str(package), out=root / "out", targets=targets, measure=False))


def container(made: Export) -> dict[str, Any]:
    text = (made.out / "kubernetes" / "manifests" / "deployment.yaml").read_text("utf-8")
    (one,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    assert isinstance(one, dict)
    return one


def pod(made: Export) -> dict[str, Any]:
    text = (made.out / "kubernetes" / "manifests" / "deployment.yaml").read_text("utf-8")
    found = yaml.safe_load(text)["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def running(made: Export, tmp_path: Path, sandboxed: None) -> Iterator[sandbox.Inside]:
    """The manifest's container: its command, its environment, its user, its mounts. The image's parts are this venv."""
    one = container(made)
    root = sandbox.Root(
        shown={"/opt/onward": VENV, "/srv/onward/repository": made.out / "docker" / "repository"},
        scratch=tuple(mount["mountPath"] for mount in one["volumeMounts"]),
    )
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"} | {entry["name"]: entry["value"] for entry in one["env"]}
    user = pod(made)["securityContext"]["runAsUser"]
    command = [*one["command"], *one["args"]]
    with sandbox.started(command, root, environment=environment, user=user, folder=Path("/tmp"),
                         log=tmp_path / "log") as inside:  # fmt: skip
        probe = one["startupProbe"]
        limit_s = probe["periodSeconds"] * probe["failureThreshold"]
        inside.wait_for(probe["httpGet"]["port"], probe["httpGet"]["path"], 200, limit_s)
        yield inside


@needs_sandbox
def test_the_container_serves_as_its_manifest_says_and_every_probe_is_answered(
    made: Export, running: sandbox.Inside
) -> None:
    one = container(made)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = one[name]["httpGet"]
        assert running.get(asked["port"], asked["path"])[0] == 200, name
    status, body = running.post(8000, "/models/tiny", BODY)
    assert status == 200 and b'"y":[3.0,5.0,7.0]' in body.replace(b" ", b"")
    assert running.status("CapEff") == "0000000000000000"
    assert running.status("NSpid").split()[-1] == "1"  # as in a container: what SIGTERM reaches is the server itself


@needs_sandbox
def test_the_autoscalers_metric_is_one_that_the_running_server_tells(made: Export, running: sandbox.Inside) -> None:
    running.post(8000, "/models/tiny", BODY)
    text = (made.out / "kubernetes" / "manifests" / "horizontalpodautoscaler.yaml").read_text("utf-8")
    annotations = yaml.safe_load((made.out / "kubernetes" / "manifests" / "deployment.yaml").read_text("utf-8"))
    scraped = annotations["spec"]["template"]["metadata"]["annotations"]
    status, body = running.get(int(scraped["prometheus.io/port"]), scraped["prometheus.io/path"])
    assert status == 200
    names = [metric["pods"]["metric"]["name"] for metric in yaml.safe_load(text)["spec"]["metrics"]]
    assert names
    for name in names:
        assert f'{name}{{model="tiny",version="1.0.0"}} 0.0' in body.decode()


@needs_sandbox
def test_the_images_health_check_says_what_the_server_is(made: Export, running: sandbox.Inside) -> None:
    (check,) = read(made.out / "docker" / "Containerfile")[-1].of("HEALTHCHECK")
    command = [str(VENV / "bin" / "python"), *check.words[1:]]
    assert running.run(command) == 0
    running_pid_one(running, signal.SIGTERM)
    running.wait_for(8000, "/v2/health/ready", 503, 2)
    assert running.run(command) != 0


@needs_sandbox
def test_sigterm_drains_what_the_grace_period_has_time_for(made: Export, running: sandbox.Inside) -> None:
    limit_s = pod(made)["terminationGracePeriodSeconds"] - container(made)["lifecycle"]["preStop"]["sleep"]["seconds"]
    running_pid_one(running, signal.SIGTERM)
    running.wait_for(8000, "/v2/health/ready", 503, 2)
    assert running.get(8000, "/v2/health/live")[0] == 200
    assert running.post(8000, "/models/tiny", BODY)[0] == 200  # while load balancers notice
    assert running.bwrap.wait(limit_s) == 0, running.log.read_text()
    assert "drained; bye" in running.log.read_text()


@needs_sandbox
def test_the_root_cannot_be_written_to(made: Export, tmp_path: Path) -> None:
    root = sandbox.Root(shown={"/opt/onward": VENV, "/srv/onward/repository": made.out / "docker" / "repository"})
    code = (
        "import os, sys\n"
        "for path in ('/x', '/opt/x', '/opt/onward/x', '/srv/onward/repository/x', '/etc/x', '/var/x'):\n"
        "    try:\n        open(path, 'w')\n    except OSError:\n        continue\n    sys.exit(path)\n"
        "open('/tmp/x', 'w').close()\n"
        "sys.exit(0 if os.getuid() == 10001 else 'not that user')"
    )
    with sandbox.started(["/opt/onward/bin/python", "-c", code], root, environment={}, user=10001,
                         folder=Path("/tmp"), log=tmp_path / "log") as inside:  # fmt: skip
        assert inside.bwrap.wait(30) == 0, inside.log.read_text()


def running_pid_one(running: sandbox.Inside, number: signal.Signals) -> None:
    """Send what an engine sends: a signal to process 1 of the container."""
    os.kill(running.pid, number)


# --- The image, built ---


def build(made: Export, folder: Path) -> tuple[Path, Stage]:
    """Execute the Containerfile's steps: the folder with what the last stage holds, and that stage.

    RUN happens on this machine's own root, read-only, with the image's folders put over it; the network is there, since
    pip has to fetch what the lock names.
    """
    context = made.out / "docker"
    stages = read(context / "Containerfile")
    for number, stage in enumerate(stages):
        root, at = folder / (stage.name or str(number)), "/"
        for place in ("opt", "srv"):
            (root / place).mkdir(parents=True)
        for step in stage.steps:
            if step.name == "WORKDIR":
                at = step.text
                if at != "/tmp":
                    (root / at.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                source, target = step.words
                where = folder / step.options["from"] if "from" in step.options else context
                put(
                    where / source.lstrip("/"), root / str(Path(at, target)).lstrip("/"), to_folder=target.endswith("/")
                )
            elif step.name == "RUN":
                run_step(step.words, root, at)
    return root, stage


def put(source: Path, target: Path, *, to_folder: bool) -> None:
    """COPY: a folder's contents, or a file."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target = target / source.name if to_folder else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def run_step(words: list[str], root: Path, at: str) -> None:
    """RUN, in the form without a shell."""
    if words[0] == "python":  # this machine's, not a shim or the one of an environment
        words = [str(BASE_PYTHON), *words[1:]]
    mounts = [word for place in ("opt", "srv") for word in ("--bind", str(root / place), f"/{place}")]
    mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", *mounts]
    command = ["bwrap", *mounts, "--bind", "/tmp", "/tmp", "--chdir", at, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"


@pytest.mark.long
@needs_sandbox
def test_the_image_builds_from_its_hashes_and_runs_as_its_entry_point_says(made: Export, tmp_path: Path) -> None:
    root, last = build(made, tmp_path / "image")
    bill = json.loads((root / "srv" / "onward" / "bill-of-materials.cdx.json").read_text("utf-8"))
    listed = {one["name"] for one in bill["components"] if one["type"] == "library"}
    (site,) = (root / "opt" / "onward" / "lib").glob("python3.*/site-packages")
    there = {info.name.split("-")[0].lower().replace("_", "-").replace(".", "-") for info in site.glob("*.dist-info")}
    assert there == listed  # nothing else came in, not even pip
    variables = dict(word.split("=", 1) for word in shlex.split(last.of("ENV")[0].text))
    user = int(last.of("USER")[0].text.partition(":")[0])
    shown = {"/opt/onward": root / "opt" / "onward", "/srv/onward": root / "srv" / "onward"}
    with sandbox.started(last.of("ENTRYPOINT")[0].words, sandbox.Root(shown=shown), environment=variables, user=user,
                         folder=Path(last.of("WORKDIR")[0].text), log=tmp_path / "log") as inside:  # fmt: skip
        inside.wait_for(8000, "/v2/health/ready", 200, 60)
        assert inside.post(8000, "/models/tiny", BODY)[0] == 200
        os.kill(inside.pid, signal.Signals[last.of("STOPSIGNAL")[0].text])
        assert inside.bwrap.wait(STOP_TIMEOUT_S) == 0
    size_mib = sum(path.stat().st_size for path in (root / "opt").rglob("*") if path.is_file()) / (1 << 20)
    assert size_mib < 400


@pytest.mark.long
@needs_sandbox
def test_the_install_script_makes_the_release_that_the_units_start(made: Export, tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", "/tmp", "/tmp"]
    mounts += ["--bind", str(tmp_path / "opt"), "/opt"]
    script = str(made.out / "systemd" / "install.sh")
    path = f"{BASE_PYTHON.parent}:/usr/bin:/bin"
    for _ in range(2):  # a second time it has nothing to do
        command = ["bwrap", *mounts, "--setenv", "PATH", path, "--setenv", "ROOTLESS", "1", script]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "opt" / "onward-tiny" / "releases").iterdir())) == 1
    unit = (made.out / "systemd" / "onward-tiny@.service").read_text("utf-8")
    program = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).split("=", 1)[1].split()[0]
    command = ["bwrap", *mounts, program, "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("onward")


@pytest.mark.long
@pytest.mark.weights
@needs_sandbox
def test_every_package_of_the_gallery_serves_with_nowhere_to_write_to_but_its_scratch(
    made: Export, tmp_path: Path
) -> None:
    repository = Path(__file__).parents[2] / "var" / "repository"
    packages = collect(str(repository)) if repository.is_dir() else ()
    if not packages:
        pytest.skip("no package of the gallery is built: python -m gallery build")
    root = sandbox.Root(shown={"/opt/onward": VENV, "/srv/onward/repository": repository})
    environment = made.deployment.environment() | {"ONWARD_STORE": "sqlite:////tmp/store.db", "PATH": "/usr/bin:/bin"}
    with sandbox.started(made.deployment.command(), root, environment=environment, user=10001, folder=Path("/tmp"),
                         log=tmp_path / "log") as inside:  # fmt: skip
        inside.wait_for(8000, "/v2/health/ready", 200, 160)
        for package in packages:
            for example in read_examples(package.folder)[:1]:
                body = json.loads(msgspec.json.encode(example.input))  # bytes become base64
                status, answer = inside.post(8000, f"/models/{package.name}", body)
                assert status == 200, (package.name, answer)


# --- Replicas of one machine ---


@needs_sandbox
def test_kserves_container_serves_what_kserve_has_put_in_its_place(made: Export, tmp_path: Path) -> None:
    package = made.out / "docker" / "repository" / "tiny" / "1.0.0"
    options = CloudOptions(source=str(package), out=tmp_path / "out", targets=("kserve",), measure=False,
                           storage_uri="s3://models/tiny")  # fmt: skip
    text = (export(options).out / "kserve" / "onward.yaml").read_text("utf-8")
    runtime, service = yaml.safe_load_all(text)
    (one,) = runtime["spec"]["containers"]
    root = sandbox.Root(shown={"/opt/onward": VENV, "/mnt/models": package})
    environment = {"PATH": "/usr/bin:/bin"} | {entry["name"]: entry["value"] for entry in one["env"]}
    user = one["securityContext"]["runAsUser"]
    with sandbox.started([*one["command"], *one["args"]], root, environment=environment, user=user,
                         folder=Path("/tmp"), log=tmp_path / "log") as inside:  # fmt: skip
        probe = one["readinessProbe"]["httpGet"]
        inside.wait_for(probe["port"], probe["path"], 200, 60)
        assert service["spec"]["predictor"]["model"]["protocolVersion"] == "v2"
        asked = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
        status, body = inside.post(one["ports"][0]["containerPort"], "/v2/models/tiny/infer", asked)
        assert status == 200 and json.loads(body)["outputs"][0]["data"] == [3.0, 5.0, 7.0]


def test_a_replica_is_replaced_under_load_and_no_request_is_refused(made: Export, tmp_path: Path) -> None:
    home = tmp_path / "opt" / "onward-tiny" / "current"
    home.mkdir(parents=True)
    (home / "venv").symlink_to(VENV)
    (home / "repository").symlink_to(made.out / "systemd" / "repository")
    port = free_port()
    replicas = [Manager(made, number, port, tmp_path) for number in ("97", "98")]
    failures: list[str] = []
    waited_s: list[float] = []
    answered = [0]
    over = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/models/tiny", b'{"x": [1, 2, 3]}')
        request.add_header("content-type", "application/json")
        while not over.is_set():
            began_s = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    answered[0] += response.status == 200
            except OSError as error:
                failures.append(repr(error))
            waited_s.append(time.monotonic() - began_s)
            time.sleep(0.01)

    try:
        for replica in replicas:
            replica.start()
        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(0.5)
        assert replicas[0].stop() == 0
        before = answered[0]
        replicas[0].start()
        time.sleep(0.5)
        over.set()
        for caller in callers:
            caller.join()
        assert not failures
        assert answered[0] > before > 50
        assert max(waited_s) < 10  # those whose connection came to the socket of the replica that was away
        for admin_port in (9097, 9098):  # each tells its own counters
            with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=5) as metrics:
                assert b'onward_rows_total{model="tiny"' in metrics.read()
    finally:
        over.set()
        for replica in replicas:
            replica.close()
