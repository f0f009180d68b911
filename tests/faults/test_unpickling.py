"""A package that unpickles, in a real server: it gets a clear error, and everybody else their answers."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from onward.package.assembly import assemble
from onward.testing import tiny_package
from tests.acceptance.conftest import free_port, serving
from tests.acceptance.test_lifecycle import body, models, until

MANIFEST = """format = 1
[package]
name = "pickled"
version = "1.0.0"
[[input]]
name = "x"
datatype = "FP32"
shape = [1]
[[output]]
name = "y"
datatype = "FP32"
shape = [1]
[execute]
backend = "python"
entry = "model:Model"
"""
LATE = """
    import pickle

    class Model:
        def __init__(self, folder):
            self.weights = folder / "weights.bin"

        def run(self, feeds):
            if feeds["x"][0, 0] > 0:
                pickle.loads(self.weights.read_bytes())
            return {"y": feeds["x"]}
"""
EARLY = """
    import pickle

    class Model:
        def __init__(self, folder):
            pickle.loads((folder / "weights.bin").read_bytes())

        def run(self, feeds):
            return {"y": feeds["x"]}
"""


class Touch:
    """Unpickling one makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.file),)


def pickled_package(folder: Path, source: str, touched: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "onward.toml").write_text(MANIFEST)
    (folder / "model.py").write_text(dedent(source))
    (folder / "weights.bin").write_bytes(pickle.dumps(Touch(touched)))
    assemble(folder)
    return folder


def test_a_package_that_unpickles_for_an_answer_fails_alone(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    root = tmp_path / "repository"
    pickled_package(root / "pickled" / "1.0.0", LATE, touched)
    tiny_package(root / "tiny" / "1.0.0")
    with serving(root) as server:
        refused = httpx.post(server.url + "/v2/models/pickled/infer", json=body(1.0))
        assert refused.status_code == 500 and refused.json()["code"] == "EXECUTION_FAILED"
        assert "UnpicklingRefused" in refused.json()["error"] and "mkdir" in refused.json()["error"]
        assert httpx.post(server.url + "/v2/models/pickled/infer", json=body(0.0)).status_code == 200
        assert httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3)).status_code == 200
    assert not touched.exists()


def test_a_package_that_unpickles_to_start_is_not_served_and_the_rest_is(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    root = tmp_path / "repository"
    tiny_package(root / "tiny" / "1.0.0")
    with serving(root, "--watch-interval", "0.1") as server:
        made = pickled_package(tmp_path / "made", EARLY, touched)
        (root / "pickled").mkdir()
        made.rename(root / "pickled" / "1.0.0")
        until(lambda: models(server).get(("pickled", "1.0.0"), {}).get("state") == "failed")
        failed = models(server)["pickled", "1.0.0"]
        assert failed["code"] == "INVALID_PACKAGE" and "UnpicklingRefused" in failed["reason"]
        assert httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3)).status_code == 200
    assert not touched.exists()


INSIDE = """
import os, pickle, signal, sys, threading, time, urllib.request
from onward import unpickling
from onward.cli import main

class Touch:
    def __reduce__(self):
        return os.mkdir, (os.environ["TOUCHED"],)

def unpickle(data):
    while not unpickling._refusing:  # until boot is over
        time.sleep(0.001)
    try:
        pickle.loads(data)
    except Exception as error:
        print(getattr(error, "code", error), file=sys.stderr, flush=True)
    if sys.argv[1] == "serve":
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/v2/health/ready")
                break
            except OSError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=unpickle, args=(pickle.dumps(Touch()),), daemon=True).start()
main()
"""


@pytest.mark.parametrize("command", ["serve", "run", "batch"])
def test_the_process_that_answers_unpickles_nothing_itself(tmp_path: Path, command: str) -> None:
    """A thread that unpickles stands for any library of the process that would; the process goes on."""
    folder, touched, port = tiny_package(tmp_path / "tiny"), tmp_path / "touched", free_port()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"x": [1, 2, 3]}) + "\n")
    arguments = {
        "serve": ["serve", str(folder), "--port", str(port), "--admin-port", str(free_port())],
        "run": ["run", str(folder), str(tmp_path / "rows.jsonl")],
        "batch": ["batch", str(folder), str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")],
    }[command]
    made = subprocess.run(
        [sys.executable, "-c", INSIDE, *arguments], capture_output=True, text=True, timeout=60,
        env=os.environ | {"TOUCHED": str(touched), "PORT": str(port)},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "UNPICKLING_REFUSED" in made.stderr
    assert not touched.exists()


EVERYWHERE = """
import os, pickle, sys, threading, time

class Touch:
    def __reduce__(self):
        return os.mkdir, (os.environ["TOUCHED"] + str(os.getpid()),)

def unpickle(data):
    while not getattr(sys.modules.get("onward.unpickling"), "_refusing", 0):
        time.sleep(0.01)
    try:
        pickle.loads(data)
    except Exception as error:
        print("tried:", getattr(error, "code", error), file=sys.stderr, flush=True)

threading.Thread(target=unpickle, args=(pickle.dumps(Touch()),), daemon=True).start()
"""


def test_neither_a_supervisor_nor_its_workers_unpickle_anything(tmp_path: Path) -> None:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    (tmp_path / "everywhere").mkdir()
    (tmp_path / "everywhere" / "sitecustomize.py").write_text(EVERYWHERE)
    environment = {"PYTHONPATH": str(tmp_path / "everywhere"), "TOUCHED": str(tmp_path / "touched")}
    with serving(tmp_path / "repository", "--workers", "2", environment=environment) as server:
        until(lambda: server.log().count("tried: UNPICKLING_REFUSED") >= 3)
        assert httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3)).status_code == 200
    assert not list(tmp_path.glob("touched*"))
