"""Packages behind real hosts: an HTTP server, an S3 server, and a command that is killed while it fetches."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.package.archive import write_archive
from tests.acceptance.conftest import serving, write_loan

pytest.importorskip("aiohttp", reason="sources need the extra `sources`")
LOAN = {"amount": 9000, "income": 3200, "years_employed": 6, "purpose": "car", "customer": True}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_loan(folder / "loan")
    (folder / "site").mkdir()
    return write_archive(folder / "loan", folder / "site" / "loan-1.2.0.onward")


class Host(http.server.SimpleHTTPRequestHandler):
    slow = False

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if not type(self).slow:
            return super().copyfile(source, outputfile)
        while chunk := source.read(64):
            outputfile.write(chunk)
            time.sleep(0.05)

    def log_message(self, format: str, *values: Any) -> None:
        pass


@pytest.fixture
def site(archive: Path) -> Iterator[str]:
    def handler(*arguments: Any) -> Host:
        return Host(*arguments, directory=str(archive.parent))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Host.slow = False
    server.shutdown()
    server.server_close()


def named(place: str, archive: Path) -> str:
    return f"{place}/{archive.name}#sha256={hashlib.sha256(archive.read_bytes()).hexdigest()}"


def run(source: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "onward", "run", source, json.dumps(LOAN), "--json"]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_a_server_serves_what_it_fetches(archive: Path, site: str, tmp_path: Path) -> None:
    environment = {"ONWARD_SOURCES": site, "ONWARD_CACHE": str(tmp_path / "cache")}
    with serving(named(site, archive), environment=environment) as server:
        request = urllib.request.Request(f"{server.url}/models/loan", json.dumps(LOAN).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.load(response)["answer"]["label"] == "approve"


def test_without_leave_nothing_is_fetched_and_the_command_says_what_would_be(
    archive: Path, site: str, tmp_path: Path
) -> None:
    made = run(named(site, archive), {"ONWARD_SOURCES": "", "ONWARD_CACHE": str(tmp_path)})
    assert made.returncode == 77
    assert "SOURCE_NOT_ALLOWED" in made.stderr and "ONWARD_SOURCES" in made.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_killed_while_it_fetches_leaves_nothing_that_is_taken_for_a_package(
    archive: Path, site: str, tmp_path: Path
) -> None:
    environment = {"ONWARD_SOURCES": site, "ONWARD_CACHE": str(tmp_path)}
    Host.slow = True
    argv = [sys.executable, "-m", "onward", "run", named(site, archive), json.dumps(LOAN)]
    process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    until_s = time.monotonic() + 30
    while not list(tmp_path.glob("archives/.fetching-*")):
        assert time.monotonic() < until_s and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("archives/*.onward")) == []
    Host.slow = False
    made = run(named(site, archive), environment)
    assert json.loads(made.stdout)["answer"]["label"] == "approve", made.stderr
    assert len(list(tmp_path.glob("archives/*.onward"))) == 1


def test_a_bucket_is_read_with_the_credentials_of_the_environment(archive: Path, tmp_path: Path) -> None:
    server_module = pytest.importorskip("moto.server", reason="a real S3 protocol server: moto, of the extra `dev`")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key", "ONWARD_CACHE": str(tmp_path),
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "ONWARD_SOURCES": "s3://models/released/",
        }  # fmt: skip
        files = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=environment["AWS_ENDPOINT_URL"])
        files.mkdir("models")
        files.put(str(archive), f"models/released/{archive.name}")
        made = run(named("s3://models/released", archive), environment)
        assert json.loads(made.stdout)["answer"]["label"] == "approve", made.stderr
        assert run(named("s3://models/other", archive), environment).returncode == 77
        missing = run(named("s3://models/released/none", archive), {**environment, "ONWARD_CACHE": str(tmp_path / "x")})
        assert "NOT_FOUND" in missing.stderr
    finally:
        server.stop()
