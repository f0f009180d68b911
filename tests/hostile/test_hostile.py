"""Packages made to do harm are refused with a code, in little time and memory, and by no crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onward.errors import PackageError
from onward.package.digest import package_files
from onward.package.manifest import load_manifest
from onward.package.package import check_contents
from tests.hostile import contents, graphs
from tests.hostile.cases import CASES, Case, built, harmless

OPENER = Path(__file__).with_name("opener.py")
LISTED = (contents, graphs)  # they add their cases as they are imported
CPU_S = 3.0
MEMORY_BYTES = 512 << 20


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of opening each that a test asks for."""
    place = tmp_path_factory.mktemp("hostile")
    called = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {call.params["hostile"].name for call in called if call is not None and "hostile" in call.params}
    (place / "harmless").mkdir()
    paths = [("harmless", str(harmless(place / "harmless"))), *((one.name, path) for one, path in built(place, asked))]
    (place / "list.json").write_text(json.dumps([path for _, path in paths]))
    environment = os.environ | {"ONWARD_CACHE": str(place / "cache"), "PYTHONPATH": str(Path.cwd())}
    made = subprocess.run(
        [sys.executable, str(OPENER), str(place / "list.json")], capture_output=True, text=True, env=environment,
        timeout=600,
    )  # fmt: skip
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    assert len(lines) == len(paths), made.stderr[-2000:]
    assert not list(place.rglob("evil"))
    return {name: line for (name, _), line in zip(paths, lines, strict=True)}


def test_what_is_harmless_opens_within_the_same_limits(told: dict[str, dict[str, Any]]) -> None:
    assert told["harmless"]["said"] == "opened"


@pytest.mark.parametrize("hostile", CASES, ids=lambda one: one.name)
def test_a_package_made_to_do_harm_is_refused_in_little_time_and_memory(
    told: dict[str, dict[str, Any]], hostile: Case
) -> None:
    found = told[hostile.name]
    assert found["said"] in hostile.codes
    assert found["cpu_s"] < CPU_S
    assert found["memory_bytes"] - told["harmless"]["memory_bytes"] < MEMORY_BYTES


NATIVE = [one for one in CASES if one.name.startswith(("graph_", "tokenizer_", "gguf_")) and len(one.codes) == 1]


@pytest.mark.parametrize("written", NATIVE, ids=lambda one: one.name)
def test_what_native_code_would_read_is_refused_before_it_does(tmp_path: Path, written: Case) -> None:
    folder = written.build(tmp_path)
    with pytest.raises(PackageError):
        package_files(folder)
        check_contents(load_manifest(folder), folder)
