"""A deployment serves the newest version of each package, and what packages of stages are made of, as locked."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.errors import DigestMismatch, ModelNotFound
from onward.package.package import open_package
from onward.runners.cloud.packages import collect, copy
from onward.testing import tiny_package
from tests.packages import staged_packages


def test_of_a_repository_the_newest_version_of_each_name_is_served(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        tiny_package(tmp_path / "tiny" / version, version=version)
    (one,) = collect(str(tmp_path))
    assert (one.name, one.version) == ("tiny", "1.10.0")
    assert one.digest == open_package(tmp_path / "tiny" / "1.10.0").id.digest
    assert (one.decides, one.extras, one.providers, one.queue_tokens) == (False, (), ("cpu",), 0)


def test_a_package_of_stages_brings_its_stages(tmp_path: Path) -> None:
    folder = staged_packages(tmp_path / "repository")
    names = {one.name for one in collect(str(folder))}
    manifest = open_package(folder).manifest
    assert names == {manifest.package.name, *(stage.package for stage in manifest.stages)}
    assert [one.name for one in collect(str(folder)) if one.asked] == [manifest.package.name]
    copied = tmp_path / "copied"
    copy(collect(str(folder)), copied)
    assert {one.name for one in collect(str(copied))} == names


def test_what_was_changed_is_not_deployed(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny" / "1.0.0")
    packages = collect(str(folder))
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(DigestMismatch):
        collect(str(folder))
    with pytest.raises(DigestMismatch):
        copy(packages, tmp_path / "copied")


def test_an_empty_repository_is_nothing_to_deploy(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no packages to deploy"):
        collect(str(tmp_path))
