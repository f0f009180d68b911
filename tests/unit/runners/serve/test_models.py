"""Which versions are served, by which routes, and what is said of those that are not."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onward.errors import ModelNotFound, Unavailable
from onward.package.digest import LOCK_FILE
from onward.package.repository import Repository
from onward.pipeline import Pipeline
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


async def test_a_version_that_fails_keeps_the_old_one_and_is_not_tried_again_while_it_is_the_same(
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


async def test_removing_the_newest_version_rolls_back_once_and_for_all(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    for version in ("1.0", "2.0"):
        tiny_package(tmp_path / "tiny" / version, version=version)
    models = await scanned(tmp_path, pool)
    route = models.routes[b"/v2/models/tiny/infer"]
    shutil.rmtree(tmp_path / "tiny" / "2.0")
    await models.scan()
    older = models.get("tiny")
    assert models.versions("tiny") == ["1.0"] and older.id.version == "1.0"
    assert models.routes[b"/v2/models/tiny/infer"] is route and route.handler == older.handle_infer
    assert not [path for path in models.routes if b"2.0" in path]
    await models.scan()
    assert models.get("tiny") is older, "it was loaded again"
    await models.close()


async def test_an_older_version_is_not_loaded_while_enough_newer_ones_are_served(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    tiny_package(tmp_path / "tiny" / "2.0", version="2.0")
    models = await scanned(tmp_path, pool)
    newer = models.get("tiny")
    tiny_package(tmp_path / "tiny" / "1.0", version="1.0")
    await models.scan()
    assert models.versions("tiny") == ["2.0"] and models.get("tiny") is newer
    await models.close()


async def test_a_removed_version_serves_on_until_another_one_can(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    broken = tiny_package(tmp_path / "tiny" / "1.0", version="1.0")
    (broken / "model.onnx").write_bytes(b"not a graph")
    tiny_package(tmp_path / "tiny" / "2.0", version="2.0")
    models = await scanned(tmp_path, pool)
    shutil.rmtree(tmp_path / "tiny" / "2.0")
    await models.scan()
    assert models.versions("tiny") == ["2.0"] and ("tiny", "1.0") in models.failed
    await models.close()


async def test_a_model_without_any_folder_is_unloaded_and_one_whose_disk_is_gone_is_not(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    root = tmp_path / "repository"
    for name in ("tiny", "other"):
        tiny_package(root / name / "1.0", name=name, version="1.0")
    models = await scanned(root, pool)
    shutil.rmtree(root / "tiny")
    await models.scan()
    assert models.names() == ["other"] and models.ready
    assert not [path for path in models.routes if b"tiny" in path]
    root.rename(tmp_path / "away")
    await models.scan()
    assert models.names() == ["other"] and models.ready
    await models.close()


async def test_files_that_cannot_be_read_are_a_failure_and_the_next_scan_comes(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    models = Models(Repository(tmp_path), pool)
    with monkeypatch.context() as patched:
        patched.setattr(Repository, "names", raising(PermissionError("names")))
        await models.scan()
        assert not models.ready
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "open", raising(FileNotFoundError("model.onnx")))
        await models.scan()
        assert models.failed["tiny", "1.0.0"].code == "INVALID_PACKAGE"
        assert "FileNotFoundError: model.onnx" in str(models.failed["tiny", "1.0.0"])
    watching = asyncio.create_task(models.watch(0.01))
    (tmp_path / "tiny" / "1.0.0" / LOCK_FILE).touch()
    async with asyncio.timeout(10):
        while not models.ready:
            await asyncio.sleep(0.01)
    models.stop_accepting()
    await watching
    await models.close()


def raising(error: Exception) -> object:
    """A function that raises the error whatever it is called with."""

    def call(*arguments: object, **named: object) -> None:
        raise error

    return call


async def test_a_failed_version_is_tried_again_when_its_folder_changes_and_forgotten_when_it_is_gone(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    folder = tiny_package(tmp_path / "tiny" / "1.0.0")
    graph = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(graph[:50])  # a copy that has not ended; the lock is there already
    models = await scanned(tmp_path, pool)
    assert not models.ready and ("tiny", "1.0.0") in models.failed
    (folder / "model.onnx").write_bytes(graph)
    await models.scan()
    assert models.ready and not models.failed
    tiny_package(tmp_path / "tiny" / "2.0.0", version="2.0.0", lock=False)
    await models.scan()
    assert ("tiny", "2.0.0") in models.failed
    shutil.rmtree(tmp_path / "tiny" / "2.0.0")
    await models.scan()
    assert not models.failed
    await models.close()


async def test_a_bad_model_that_is_new_leaves_the_server_ready(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    models = await scanned(tmp_path, pool)
    tiny_package(tmp_path / "new" / "1.0.0", name="new", lock=False)
    await models.scan()
    assert ("new", "1.0.0") in models.failed and models.ready
    await models.close()


async def test_at_the_start_the_newest_versions_that_load_are_served(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    for version in ("1.0", "2.0", "3.0", "4.0"):
        tiny_package(tmp_path / "tiny" / version, version=version)
    for version in ("2.0", "4.0"):
        (tmp_path / "tiny" / version / "model.onnx").write_bytes(b"not a graph")
    models = await scanned(tmp_path, pool)
    assert models.versions("tiny") == ["3.0"] and models.ready
    assert set(models.failed) == {("tiny", "4.0")}
    both = await scanned(tmp_path, pool, keep_versions=2)
    assert both.versions("tiny") == ["1.0", "3.0"] and both.get("tiny").id.version == "3.0"
    for one in (models, both):
        await one.close()


async def test_the_same_version_with_another_digest_is_loaded_anew(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    folder = tiny_package(tmp_path / "tiny" / "1.0.0")
    models = await scanned(tmp_path, pool)
    old = models.get("tiny")
    (folder / LOCK_FILE).touch()
    await models.scan()
    assert models.get("tiny") is old, "the contents are the same"
    shutil.rmtree(folder)
    tiny_package(folder, offset=5.0)
    await models.scan()
    new = models.get("tiny")
    assert new is not old and new.id.digest != old.id.digest and models.all() == [new]
    assert models.routes[b"/v2/models/tiny/infer"].handler == new.handle_infer
    assert (await new.answer([{"x": [1.0, 1.0, 1.0]}]))[0].answer == {"y": [7.0, 7.0, 7.0]}
    (folder / LOCK_FILE).write_text("nothing")
    await models.scan()
    assert models.get("tiny") is new and models.ready and ("tiny", "1.0.0") in models.failed
    await models.close()


async def test_what_failed_is_closed_and_its_error_holds_nothing(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[Pipeline]] = []
    closed = 0

    def close(pipeline: Pipeline) -> None:
        nonlocal closed
        closed += 1
        opened.append(weakref.ref(pipeline))

    monkeypatch.setattr(Pipeline, "close", close)
    tiny_package(tmp_path / "other" / "1.0.0")
    models = await scanned(tmp_path, pool)
    error = models.failed["other", "1.0.0"]
    assert error.__traceback__ is None and error.__context__ is None and error.__cause__ is None
    gc.collect()
    assert closed == 1 and opened[0]() is None


async def test_requests_are_prepared_while_a_version_loads(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with ThreadPoolExecutor(max_workers=1) as prepare, ThreadPoolExecutor(max_workers=1) as loader:
        models = Models(Repository(tmp_path), prepare, loader=loader)
        await models.scan()
        let_go = threading.Event()
        really = Pipeline.open

        def slowly(path: Path) -> Pipeline:
            assert let_go.wait(10)
            return really(path)

        monkeypatch.setattr(Pipeline, "open", slowly)
        tiny_package(tmp_path / "tiny" / "2.0.0", version="2.0.0")
        scanning = asyncio.create_task(models.scan())
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            answers = await models.get("tiny").answer([{"x": [1.0, 1.0, 1.0]}])
        assert answers[0].package.version == "1.0.0" and not scanning.done()
        let_go.set()
        await scanning
        assert models.get("tiny").id.version == "2.0.0"
        await models.close()
