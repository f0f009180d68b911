"""Which versions are served, by which routes, and what is said of those that are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onward.errors import ModelNotFound, Unavailable
from onward.package.repository import Repository
from onward.runners.serve.models import Models
from onward.testing import tiny_package


@pytest.fixture
async def pool() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=2) as executor:
        yield executor


async def scanned(root: Path, pool: ThreadPoolExecutor, *, keep_versions: int = 1) -> Models:
    models = Models(Repository(root), pool, keep_versions=keep_versions)
    await models.scan()
    return models


async def test_the_newest_version_by_number_is_served(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    for version in ("1.9", "1.10", "1.2"):
        tiny_package(tmp_path / "tiny" / version, version=version)
    models = await scanned(tmp_path, pool)
    assert models.get("tiny").id.version == "1.10" and models.versions("tiny") == ["1.10"]
    with pytest.raises(ModelNotFound, match=r"1\.10"):
        models.get("tiny", "1.9")
    with pytest.raises(ModelNotFound, match="tiny"):
        models.get("other")
    await models.close()


async def test_a_server_is_not_ready_before_the_first_scan(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    models = Models(Repository(tmp_path), pool)
    assert not models.ready
    await models.scan()
    assert models.ready


async def test_a_version_that_fails_keeps_the_old_one_and_is_not_tried_again(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0", version="1.0")
    models = await scanned(tmp_path, pool)
    old = models.get("tiny")
    broken = tiny_package(tmp_path / "tiny" / "2.0", version="2.0")
    (broken / "model.onnx").write_bytes(b"not a graph")
    await models.scan()
    error = models.failed["tiny", "2.0"]
    assert models.get("tiny") is old and models.ready
    await models.scan()
    assert models.failed["tiny", "2.0"] is error
    await models.close()


async def test_a_route_follows_to_the_new_version_and_the_old_ones_are_gone(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0", version="1.0")
    models = await scanned(tmp_path, pool)
    route = models.routes[b"/v2/models/tiny/infer"]
    old = models.get("tiny")
    tiny_package(tmp_path / "tiny" / "2.0", version="2.0")
    await models.scan()
    new = models.get("tiny")
    assert new is not old and models.routes[b"/v2/models/tiny/infer"] is route
    assert route.handler == new.handle_infer
    assert set(models.routes) == {
        b"/v2/models/tiny/infer", b"/v2/models/tiny/versions/2.0/infer", b"/models/tiny", b"/models/tiny/versions/2.0",
    }  # fmt: skip
    await models.close()


async def test_a_version_waits_for_what_is_being_prepared_before_it_closes(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    models = await scanned(tmp_path, pool)
    served = models.get("tiny")
    asked = [asyncio.create_task(served.answer([{"x": [float(n), 0, 0]}])) for n in range(20)]
    await asyncio.sleep(0)
    await models.close()
    assert [task.result()[0].answer["y"][0] for task in asked] == [2.0 * n + 1 for n in range(20)]


async def test_a_model_whose_only_version_failed_is_unavailable(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    folder = tiny_package(tmp_path / "tiny" / "1.0.0")
    (folder / "model.onnx").write_bytes(b"not a graph")
    models = await scanned(tmp_path, pool)
    assert not models.ready
    assert models.failed["tiny", "1.0.0"].code == "DIGEST_MISMATCH"
    with pytest.raises(Unavailable, match="DIGEST_MISMATCH"):
        models.get("tiny")


async def test_a_package_in_another_packages_folder_is_refused(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    tiny_package(tmp_path / "other" / "1.0.0")
    models = await scanned(tmp_path, pool)
    assert "expected other 1.0.0; found tiny 1.0.0" in str(models.failed["other", "1.0.0"])
