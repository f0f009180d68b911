"""`onward tune` against real servers of this machine: what it finds becomes a package that verifies and answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from onward.package.digest import read_lock
from tests import packages

# A bound that any setting holds on a machine that is busy with other tests, and one that none holds anywhere.
EASY_MS, IMPOSSIBLE_MS = 2000.0, 1e-4


def tune(package: Path, *options: str, bound_ms: float = EASY_MS) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onward", "tune", str(package), "--p99-ms", str(bound_ms), "--budget-s", "30"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=150)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = packages.mlp_package(tmp_path / "mlp")
    text = (folder / "onward.toml").read_text("utf-8").replace("[execute]", "# tuned by nobody yet\n[execute]  # here")
    (folder / "onward.toml").write_text(text, "utf-8")
    packages.assemble(folder)
    return folder


@pytest.mark.long
def test_a_new_version_is_written_with_the_curves_and_the_old_one_stays(package: Path, tmp_path: Path) -> None:
    before = read_lock(package).digest
    made = tune(package, "--out", str(tmp_path / "tuned"))
    assert made.returncode == 0, made.stderr
    told: dict[str, Any] = json.loads(made.stdout)
    manifest = (tmp_path / "tuned" / "onward.toml").read_text("utf-8")
    values = tomllib.loads(manifest)
    assert "# tuned by nobody yet\n[execute]  # here" in manifest
    assert (values["package"]["version"], told["written"]["version"]) == ("1.0.1", "1.0.1")
    found = {"max_batch_size": values.get("batching", {}).get("max_batch_size", 64)}
    found |= {key: values["execute"].get(key, default) for key, default in (("instances", 1), ("threads", 0))}
    assert found == told["best"]
    assert read_lock(package).digest == before and read_lock(tmp_path / "tuned").digest == told["written"]["digest"]
    data = json.loads((tmp_path / "tuned" / "tuning.json").read_text("utf-8"))
    assert data["settings"] == told["settings"] and data["machine"]["cores"] >= 1
    for setting in data["settings"]:
        rates = [point["offered_per_s"] for point in setting["curve"]]
        assert rates == sorted(rates) and len(rates) >= 2 and len(setting["held_per_s_climbs"]) == 3
        assert all(point["requests"] > 0 for point in setting["curve"])
    ElementTree.parse(tmp_path / "tuned" / "tuning.svg")
    verify = [sys.executable, "-m", "onward", "verify", str(tmp_path / "tuned")]
    assert subprocess.run(verify, capture_output=True, timeout=60).returncode == 0


@pytest.mark.long
def test_the_package_itself_is_changed_where_that_is_asked_for(package: Path) -> None:
    shutil.copy(package / "model.onnx", package.parent / "model.onnx")
    made = tune(package, "--apply")
    assert made.returncode == 0, made.stderr
    assert {path.name for path in package.iterdir()} >= {"tuning.json", "tuning.svg", "onward.lock"}
    assert (package / "model.onnx").read_bytes() == (package.parent / "model.onnx").read_bytes()
    verify = [sys.executable, "-m", "onward", "verify", str(package)]
    assert subprocess.run(verify, capture_output=True, timeout=60).returncode == 0
    assert not list(package.parent.glob(".tuning-*"))


@pytest.mark.long
def test_a_bound_that_nothing_holds_is_said_so_and_nothing_is_written(package: Path, tmp_path: Path) -> None:
    made = tune(package, "--out", str(tmp_path / "tuned"), bound_ms=IMPOSSIBLE_MS)
    assert made.returncode == 65 and "BEYOND_BOUNDS" in made.stderr
    assert json.loads(made.stdout)["best"] is None and not (tmp_path / "tuned").exists()


@pytest.mark.long
def test_requests_of_ones_own_are_what_is_sent(package: Path, tmp_path: Path) -> None:
    body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [4, 30], "data": [0.5] * 120}]}
    (tmp_path / "r.jsonl").write_text(json.dumps(body) + "\n" + json.dumps({"wrong": 1}))
    made = tune(package, "--requests", str(tmp_path / "r.jsonl"))
    assert made.returncode == 0, made.stderr
    (tmp_path / "r.jsonl").write_text(json.dumps({"wrong": 1}))
    refused = tune(package, "--requests", str(tmp_path / "r.jsonl"))
    assert refused.returncode == 64 and "no request is answered" in refused.stderr


def test_what_cannot_be_tuned_is_told_at_once(package: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert "something already" in tune(package, "--out", str(tmp_path / "there")).stderr
    assert "one of both" in tune(package, "--out", str(tmp_path / "x"), "--apply").stderr
    assert "needs a place" in tune(package, "--version", "2").stderr
