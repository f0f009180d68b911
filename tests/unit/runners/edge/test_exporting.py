"""A package becomes a folder whole, or nothing is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onward.errors import ExecutionError, OnwardError, UsageError
from onward.package.package import Package
from onward.runners.edge import exporting
from onward.runners.edge.exporting import export
from onward.testing import tiny_package


def test_a_folder_is_made_with_its_package_unchanged(tmp_path: Path) -> None:
    source = tiny_package(tmp_path / "tiny")
    made = export(str(source), tmp_path / "out" / "folder", inputs=20)
    assert made.package.id.name == "tiny"
    assert made.facts["examples"] == 1
    assert (made.certificate.inputs, made.certificate.agreeing, made.certificate.equal) == (20, 20, 20)
    written = json.loads((tmp_path / "out" / "folder" / "certificate.json").read_text("utf-8"))
    assert (written["digest"], written["difference"]) == (made.package.id.digest, 0.0)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "out" / "folder" / "package").iterdir()}
    assert kept == {file.name: file.read_bytes() for file in source.iterdir()}


def test_where_it_fails_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_package(tmp_path / "tiny")

    def half(package: Package, out: Path) -> None:
        (out / "run.py").write_text("half", "utf-8")
        raise ExecutionError("no room")

    monkeypatch.setattr(exporting, "write_folder", half)
    with pytest.raises(ExecutionError):
        export(str(source), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    source = tiny_package(tmp_path / "tiny")
    (tmp_path / "out").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match="something already"):
        export(str(source), tmp_path / "out")
    assert (tmp_path / "out").read_text("utf-8") == "mine"


def test_a_package_that_was_changed_is_refused(tmp_path: Path) -> None:
    source = tiny_package(tmp_path / "tiny")
    (source / "model.onnx").write_bytes((source / "model.onnx").read_bytes() + b" ")
    with pytest.raises(OnwardError) as caught:
        export(str(source), tmp_path / "out")
    assert caught.value.code == "DIGEST_MISMATCH"
    assert not (tmp_path / "out").exists()
