"""A server of one package is there for the block, with a store of its own, and gone after it."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from onward.errors import ExecutionError
from onward.runners.load.server import local_server
from onward.testing import tiny_package


def test_it_is_ready_within_the_block_and_gone_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Somebody takes only signed packages: what was made here of one that was verified is taken all the same.
    monkeypatch.setenv("ONWARD_SIGNED_BY", str(tmp_path / "key.pub"))
    monkeypatch.setenv("ONWARD_STORE", "sqlite:////nowhere/at/all.db")
    package = tiny_package(tmp_path / "tiny")
    with local_server(package, tmp_path, verified=True) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v2/models/{server.name}") as answer:
            assert answer.status == 200 and server.name == "tiny"
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_modules_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('this is not the library')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExecutionError) as told, local_server(tmp_path / "nothing", tmp_path):
        pass
    assert "does not exist" in told.value.found


def test_one_that_does_not_get_ready_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError) as told, local_server(tmp_path / "nothing", tmp_path):
        pass
    assert "does not exist" in told.value.found
