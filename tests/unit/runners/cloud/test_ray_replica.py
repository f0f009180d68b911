"""A replica answers what a server answers, is healthy while it serves everything, and says why it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from onward.errors import PackageError, Unavailable
from onward.package.assembly import assemble
from onward.runners.cloud.ray_replica import Replica
from onward.testing import tiny_package

POLICY = """format = 1
[policy]
name = "test"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["UNAVAILABLE"] }
"""
INPUT = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}


async def opened(folder: Path) -> Replica:
    replica = Replica()
    await replica.open(folder)
    return replica


@asynccontextmanager
async def asked(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(replica.__serve_build_asgi_app__())
    async with httpx.AsyncClient(transport=transport, base_url="http://onward") as client:
        yield client


async def test_it_answers_as_a_server_does_and_tells_errors_as_it_does(tmp_path: Path) -> None:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    replica = await opened(tmp_path)
    replica.check_health()
    async with asked(replica) as client:
        answered = await client.post("/v2/models/tiny/infer", json=INPUT)
        assert answered.status_code == 200, answered.text
        assert answered.json()["model_name"] == "tiny"
        unknown = await client.post("/v2/models/none/infer", json=INPUT)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "MODEL_NOT_FOUND")
        assert (await client.get("/v2/health/ready")).status_code == 200
    await replica.close()


async def test_its_lifespan_ends_with_what_was_taken_in_answered(tmp_path: Path) -> None:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    replica = await opened(tmp_path)
    application = replica.__serve_build_asgi_app__()
    told: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    lifespan = asyncio.create_task(application({"type": "lifespan"}, told.get, said.put))
    told.put_nowait({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    async with asked(replica) as client:
        waiting = [asyncio.create_task(client.post("/v2/models/tiny/infer", json=INPUT)) for _ in range(16)]
        await asyncio.sleep(0.05)
        told.put_nowait({"type": "lifespan.shutdown"})
        answers = await asyncio.gather(*waiting)
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await lifespan
    assert {answer.status_code for answer in answers} == {200}
    with pytest.raises(Unavailable):
        replica.check_health()


async def test_a_replica_without_every_package_does_not_start_and_says_why(tmp_path: Path) -> None:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    broken = tiny_package(tmp_path / "repository" / "broken" / "1.0.0", name="broken")
    (broken / "model.onnx").write_bytes(b"changed")
    with pytest.raises(PackageError, match=r"broken 1\.0\.0"):
        await opened(tmp_path)
    (tmp_path / "empty" / "repository").mkdir(parents=True)
    with pytest.raises(PackageError, match="no packages"):
        await opened(tmp_path / "empty")


async def test_a_package_that_decides_needs_a_store_that_all_replicas_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cel_expr_python", reason="policies are the extra `decide`")
    monkeypatch.delenv("ONWARD_STORE", raising=False)
    folder = tiny_package(tmp_path / "repository" / "tiny" / "1.0.0", lock=False)
    (folder / "policy.toml").write_text(POLICY)
    assemble(folder)
    with pytest.raises(PackageError, match=r"ONWARD_STORE.*no store here"):
        await opened(tmp_path)
    monkeypatch.setenv("ONWARD_STORE", f"sqlite:///{tmp_path / 'onward.db'}")
    replica = await opened(tmp_path)
    replica.check_health()
    await replica.close()
