"""Only signed packages: every command keeps the policy, and a server goes on with what it had."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from onward.package.archive import write_archive
from onward.testing import tiny_package
from tests.acceptance.conftest import Server, serving
from tests.acceptance.test_lifecycle import body, models, until
from tests.keys import Pair, key_pair


def onward(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onward", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, keys: Pair) -> Path:
    """A signed package and one that is not, as folders and archives, and rows to answer."""
    root = tmp_path_factory.mktemp("trust")
    for name in ("signed", "unsigned"):
        tiny_package(root / name)
    made = onward("sign", root / "signed", "--key", keys.private)
    assert made.returncode == 0, made.stderr
    for name in ("signed", "unsigned"):
        write_archive(root / name, root / f"{name}.onward")
    (root / "rows.jsonl").write_text('{"x": [1, 2, 3]}\n')
    return root


COMMANDS = {
    "run": ["run", "PACKAGE", "[1, 2, 3]"],
    "verify": ["verify", "PACKAGE"],
    "batch": ["batch", "PACKAGE", "rows.jsonl", "OUT.jsonl"],
    "edge": ["edge", "PACKAGE", "OUT", "--inputs", "0"],
    "cloud": ["cloud", "PACKAGE", "OUT", "--target", "docker", "--no-measure"],
}


@pytest.mark.parametrize(("command", "suffix"), [(command, "") for command in COMMANDS] + [("run", ".onward")])
def test_every_command_takes_only_what_was_signed(
    tmp_path: Path, place: Path, keys: Pair, command: str, suffix: str
) -> None:
    def call(name: str) -> subprocess.CompletedProcess[str]:
        places = {"PACKAGE": f"{name}{suffix}", "OUT": f"{name}-out", "OUT.jsonl": f"{name}-out.jsonl"}
        words = [places.get(word, word) for word in COMMANDS[command]]
        words = [str(place / word) if (place / word).exists() else word for word in words]
        words = [str(tmp_path / word) if word.startswith(f"{name}-out") else word for word in words]
        return onward(*words, "--signed-by", keys.public, ONWARD_CACHE=str(tmp_path / "cache"))

    refused = call("unsigned")
    assert refused.returncode == 65 and "[NOT_SIGNED]" in refused.stderr
    assert not list(tmp_path.glob("unsigned-out*"))
    taken = call("signed")
    assert taken.returncode == 0, taken.stderr
    if command == "verify":
        assert json.loads(taken.stdout)["signed_by"] == str(keys.public)


def test_the_environment_holds_the_policy_for_commands_that_are_not_told(place: Path, keys: Pair) -> None:
    asked = functools.partial(onward, ONWARD_SIGNED_BY=str(keys.public))
    assert asked("run", place / "signed", "[1, 2, 3]").returncode == 0
    assert "[NOT_SIGNED]" in asked("run", place / "unsigned", "[1, 2, 3]").stderr
    assert "[NOT_SIGNED]" in asked("decide", "test", place / "unsigned").stderr


def test_an_archive_is_signed_and_stays_the_same_package(tmp_path: Path, place: Path, keys: Pair) -> None:
    archive = Path(shutil.copy(place / "unsigned.onward", tmp_path / "tiny.onward"))
    cache = {"ONWARD_CACHE": str(tmp_path / "cache")}
    before = json.loads(onward("inspect", archive, **cache).stdout)["package"]["digest"]
    signed = onward("sign", archive, "--key", keys.private, **cache)
    assert signed.returncode == 0 and json.loads(signed.stdout)["digest"] == before, signed.stderr
    verified = onward("verify", archive, "--signed-by", keys.public, **cache)
    assert verified.returncode == 0 and json.loads(verified.stdout)["digest"] == before, verified.stderr


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(place: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_what_is_fetched_has_to_be_signed_too(tmp_path: Path, place: Path, site: str, keys: Pair) -> None:
    for name, code in (("signed", 0), ("unsigned", 65)):
        digest = hashlib.sha256((place / f"{name}.onward").read_bytes()).hexdigest()
        source = f"{site}{name}.onward#sha256={digest}"
        asked = onward(
            "run", source, "[1, 2, 3]", "--signed-by", keys.public,
            ONWARD_SOURCES=site, ONWARD_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip
        assert asked.returncode == code, asked.stderr


def answered_by(server: Server) -> str:
    answer = httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3))
    assert answer.status_code == 200
    return str(answer.json()["model_version"])


def test_a_server_refuses_what_is_not_signed_and_goes_on_with_the_old_version(tmp_path: Path, keys: Pair) -> None:
    root, other = tmp_path / "repository", key_pair(tmp_path, "other")
    first = tiny_package(root / "tiny" / "1.0.0")
    assert onward("sign", first, "--key", keys.private).returncode == 0
    with serving(root, "--watch-interval", "0.1", "--signed-by", str(keys.public)) as server:
        new = tiny_package(tmp_path / "new", version="2.0.0", scale=3.0)
        os.rename(new, root / "tiny" / "2.0.0")
        second = root / "tiny" / "2.0.0"

        def code() -> str | None:
            return models(server).get(("tiny", "2.0.0"), {}).get("code")

        until(lambda: code() == "NOT_SIGNED")
        assert answered_by(server) == "1.0.0"
        assert onward("sign", second, "--key", other.private).returncode == 0
        until(lambda: code() == "SIGNATURE_REFUSED")
        assert answered_by(server) == "1.0.0"
        assert onward("sign", second, "--key", keys.private).returncode == 0  # looked at again without a restart
        until(lambda: answered_by(server) == "2.0.0")
        assert httpx.get(server.url + "/v2/health/ready").status_code == 200


@pytest.mark.parametrize("missing", ["--signed-by", "ONWARD_SIGNED_BY"])
def test_a_key_that_is_not_there_ends_the_command_before_anything_is_opened(
    tmp_path: Path, place: Path, missing: str
) -> None:
    file = tmp_path / "no.pem"
    if missing == "--signed-by":
        refused = onward("run", place / "signed", "[1, 2, 3]", "--signed-by", file)
    else:
        refused = onward("run", place / "signed", "[1, 2, 3]", ONWARD_SIGNED_BY=str(file))
    assert refused.returncode == 64 and "no.pem" in refused.stderr
    file.write_text("no key")
    refused = onward("run", place / "signed", "[1, 2, 3]", "--signed-by", file)
    assert refused.returncode == 65 and "[KEY_REFUSED]" in refused.stderr
