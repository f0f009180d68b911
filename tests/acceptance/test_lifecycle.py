"""The life of a server: overload, deadlines, clients that leave, new versions, broken packages, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

from onward.package.assembly import assemble
from onward.package.digest import lock_of, lock_text
from onward.testing import tiny_package
from tests.acceptance.conftest import STOP_TIMEOUT_S, Server, serving, start, wait_until_ready
from tests.packages import field_toml, manifest, sleeper_package


@pytest.fixture(scope="module")
def sleepy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that takes as long as its input says, one at a time, with room for four more."""
    root = tmp_path_factory.mktemp("sleepy")
    sleeper_package(root / "sleeper" / "1.0.0")
    sleeper_package(root / "hasty" / "1.0.0", name="hasty", deadline_ms=200, queue_rows=100)
    with serving(root) as running:
        yield running


def body(*values: float, name: str = "x", size: int = 1) -> dict[str, Any]:
    """A V2 body of rows that repeat one value each."""
    data = [value for value in values for _ in range(size)]
    return {"inputs": [{"name": name, "shape": [len(values), size], "datatype": "FP32", "data": data}]}


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    text = httpx.get(server.url + "/metrics").text
    samples = [sample for family in parse_metrics(text) for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for something to become true."""
    give_up_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_s, "it did not come true"
        time.sleep(0.02)


async def gather_posts(server: Server, model: str, bodies: list[Any], **headers: str) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=30) as client:
        return await asyncio.gather(
            *(client.post(f"/v2/models/{model}/infer", json=one, headers=headers) for one in bodies)
        )


# --- overload, deadlines, cancelling ---


async def test_a_full_queue_is_a_429_that_says_when_to_come_back(sleepy: Server) -> None:
    answers = await gather_posts(sleepy, "sleeper", [body(0.15)] * 12)
    counts = Counter(answer.status_code for answer in answers)
    assert 4 <= counts[200] <= 6 and counts[200] + counts[429] == 12  # up to two run, four wait
    for refused in (answer for answer in answers if answer.status_code == 429):
        assert refused.json()["code"] == "QUEUE_FULL"
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["x-onward-retry-after-ms"]) >= 1
    assert metric(sleepy, "onward_request_failures_total", model="sleeper", code="QUEUE_FULL") == counts[429]
    # Coming back after that time works.
    assert (await gather_posts(sleepy, "sleeper", [body(0.0)]))[0].status_code == 200


async def test_the_time_to_come_back_after_follows_the_queue(sleepy: Server) -> None:
    answers = await gather_posts(sleepy, "sleeper", [body(0.2)] * 9)
    told_ms = [int(one.headers["x-onward-retry-after-ms"]) for one in answers if one.status_code == 429]
    assert told_ms and all(50 < told < 5000 for told in told_ms)


async def test_a_passed_deadline_is_a_504_and_the_work_is_never_computed(sleepy: Server) -> None:
    before = metric(sleepy, "onward_rows_total", model="sleeper")
    shed = metric(sleepy, "onward_requests_shed_total", model="sleeper", reason="expired")
    async with httpx.AsyncClient(base_url=sleepy.url) as client:
        running = asyncio.create_task(client.post("/v2/models/sleeper/infer", json=body(0.6)))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        late = await client.post("/v2/models/sleeper/infer", json=body(0.0), headers={"x-onward-timeout-ms": "100"})
        took_s = time.monotonic() - started
        assert late.status_code == 504 and late.json()["code"] == "DEADLINE_EXCEEDED"
        assert 0.09 < took_s < 0.35
        assert (await running).status_code == 200
    assert metric(sleepy, "onward_rows_total", model="sleeper") == before + 1
    assert metric(sleepy, "onward_requests_shed_total", model="sleeper", reason="expired") == shed + 1


async def test_a_package_has_a_deadline_that_a_caller_can_only_shorten(sleepy: Server) -> None:
    answers = await gather_posts(sleepy, "hasty", [body(0.15)] * 6, **{"x-onward-timeout-ms": "60000"})
    counts = Counter(answer.status_code for answer in answers)
    assert counts[504] >= 3 and counts[200] >= 1 and counts[200] + counts[504] == 6


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan"])
def test_a_timeout_that_is_none_is_refused(sleepy: Server, value: str) -> None:
    answer = httpx.post(sleepy.url + "/v2/models/sleeper/infer", json=body(0.0), headers={"x-onward-timeout-ms": value})
    assert answer.status_code == 400
    assert answer.json()["code"] == "MALFORMED_BODY" and answer.json()["field"] == "x-onward-timeout-ms"


def test_the_work_of_a_client_that_left_is_never_computed(sleepy: Server) -> None:
    shed = metric(sleepy, "onward_requests_shed_total", model="sleeper", reason="cancelled")
    rows = metric(sleepy, "onward_rows_total", model="sleeper")

    def ask(seconds: float) -> socket.socket:
        text = json.dumps(body(seconds)).encode()
        opened = socket.create_connection(("127.0.0.1", sleepy.port))
        head = b"POST /v2/models/sleeper/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text)
        opened.sendall(head + text)
        return opened

    with ask(0.5):
        time.sleep(0.1)
        for _ in range(3):
            ask(0.4).close()
        until(lambda: metric(sleepy, "onward_requests_shed_total", model="sleeper", reason="cancelled") == shed + 3)
        assert metric(sleepy, "onward_queue_rows", model="sleeper") == 0
    until(lambda: metric(sleepy, "onward_rows_total", model="sleeper") == rows + 1)
    time.sleep(0.1)
    assert metric(sleepy, "onward_rows_total", model="sleeper") == rows + 1


def test_a_client_that_never_reads_its_answers_does_not_fill_the_server(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0", features=512)
    with serving(tmp_path) as server:
        text = json.dumps(body(*[1.0] * 8, size=512)).encode()
        head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text)
        before = resident_bytes(server)
        with socket.create_connection(("127.0.0.1", server.port)) as deaf:
            deaf.settimeout(1.0)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 200 << 20:
                    deaf.sendall((head + text) * 20)
                    sent += (len(head) + len(text)) * 20
            assert sent < 100 << 20, "the server took everything without an answer being read"
            assert resident_bytes(server) - before < 60 << 20
            assert httpx.post(server.url + "/v2/models/tiny/infer", content=text).status_code == 200


def resident_bytes(server: Server) -> int:
    fields = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the end ---


async def closed_loop(server: Server, model: str, seen: Counter[str], *, size: int) -> None:
    """One keep-alive client: asks until the server says it closes; counts what became of every request it sent."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    except OSError:
        return
    value = float(np.random.default_rng().integers(0, 1000)) if model == "tiny" else 0.02
    text = json.dumps(body(value, size=size)).encode()
    request = b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (
        model.encode(), len(text), text,
    )  # fmt: skip
    try:
        while True:
            try:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            except (OSError, asyncio.IncompleteReadError) as error:
                # Closed while nothing was being answered, or in the middle of an answer?
                partial = isinstance(error, asyncio.IncompleteReadError) and error.partial
                seen["cut" if partial else "unanswered"] += 1
                return
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
            seen[head.split()[1]] += 1
            if " 200 " in head.split("\r\n")[0]:
                wanted = 2 * value + 1 if model == "tiny" else value
                assert answer["outputs"][0]["data"] == pytest.approx([wanted] * size)
            if "connection: close" in head:
                seen["told to close"] += 1
                return
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize(("model", "size"), [("tiny", 3), ("sleeper", 1)])
async def test_sigterm_under_load_answers_every_accepted_request_and_exits_with_0(
    tmp_path: Path, model: str, size: int
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0", features=3)
    sleeper_package(tmp_path / "sleeper" / "1.0.0", queue_rows=100, max_batch_size=4)
    with serving(tmp_path) as server:
        seen: Counter[str] = Counter()
        clients = [asyncio.create_task(closed_loop(server, model, seen, size=size)) for _ in range(40)]
        await asyncio.sleep(0.6)
        assert seen["200"] > 40
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*clients), 15)
        assert await asyncio.to_thread(server.process.wait, STOP_TIMEOUT_S) == 0
        assert seen["told to close"] == 40
        assert set(seen) == {"200", "told to close"}, seen


def test_what_waits_in_the_queue_is_answered_before_the_end(tmp_path: Path) -> None:
    sleeper_package(tmp_path / "sleeper" / "1.0.0", queue_rows=100)

    async def run(server: Server) -> None:
        pending = asyncio.create_task(gather_posts(server, "sleeper", [body(0.05)] * 20))
        await asyncio.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert [answer.status_code for answer in await pending] == [200] * 20

    with serving(tmp_path) as server:
        asyncio.run(run(server))


def test_not_ready_spreads_before_the_server_stops_accepting(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--drain-grace", "1.0") as server:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(server.url + "/v2/health/ready").status_code == 503)
        assert httpx.get(server.url + "/v2/health/live").status_code == 200
        assert httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3)).status_code == 200
        assert server.process.wait(STOP_TIMEOUT_S) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/v2/health/live")


def test_a_second_signal_ends_the_server_at_once_even_within_the_grace(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    server = start(tmp_path, "--drain-grace", "60")
    try:
        wait_until_ready(server)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(server.url + "/v2/health/ready").status_code == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
    finally:
        server.process.kill()
        server.process.wait()
        server.log_file.unlink()


def test_a_server_ends_with_0_although_a_model_is_still_loading(tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "sleeper" / "1.0.0"
    sleeper_package(folder)
    loading = f"open({str(tmp_path / 'loading')!r}, 'w')\n{' ' * 8}time.sleep(60)"
    source = (folder / "model.py").read_text().replace("pass", loading, 1)
    (folder / "model.py").write_text(source)
    (folder / "onward.lock").write_text(lock_text(lock_of(folder)))
    with serving(tmp_path / "repository", ready=False) as server:
        until((tmp_path / "loading").exists)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


# --- versions ---


def models(server: Server) -> dict[tuple[str, str], dict[str, Any]]:
    """What the admin port says of each version."""
    listed = httpx.get(server.admin_url + "/admin/models").json()["models"]
    return {(one["name"], one["version"]): one for one in listed}


async def test_a_new_version_is_served_without_a_lost_request(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    tiny_package(root / "tiny" / "1.0.0")
    newer = tiny_package(tmp_path / "newer", version="1.10.0", offset=5.0)
    with serving(root, "--watch-interval", "0.1") as server:
        versions: Counter[str] = Counter()
        done = False

        async def client(path: str, split: bool) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            text = json.dumps(body(1.0, size=3)).encode()
            request = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(text))
            while not done:
                writer.write(request)
                if split:  # the headers come under one version, the body perhaps under another
                    await writer.drain()
                    await asyncio.sleep(0.03)
                writer.write(text)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length: ")[2].split("\r\n")[0])
                answer = json.loads(await reader.readexactly(length))
                assert " 200 " in head.split("\r\n")[0], answer
                versions[answer["model_version"]] += 1
                wanted = {"1.0.0": 3.0, "1.10.0": 7.0}[answer["model_version"]]
                assert answer["outputs"][0]["data"] == [wanted] * 3
            writer.close()
            await writer.wait_closed()

        paths = ["/v2/models/tiny/infer", "/v2/models/tiny/infer", "/v2/models/t%69ny/infer"]
        clients = [asyncio.create_task(client(paths[index % 3], index % 2 == 1)) for index in range(24)]
        await asyncio.sleep(0.3)
        os.rename(newer, root / "tiny" / "1.10.0")
        await asyncio.sleep(1.0)
        done = True
        await asyncio.wait_for(asyncio.gather(*clients), 10)
        assert versions["1.0.0"] and versions["1.10.0"]
        assert set(models(server)) == {("tiny", "1.10.0")}, "the old version was not drained"
        assert (
            httpx.post(server.url + "/v2/models/tiny/versions/1.0.0/infer", json=body(1.0, size=3)).status_code == 404
        )


def test_several_versions_are_served_when_asked_for(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        tiny_package(tmp_path / "tiny" / f"{number}.0", version=f"{number}.0", offset=float(number))
    with serving(tmp_path, "--keep-versions", "2") as server:
        assert httpx.get(server.url + "/v2/models/tiny").json()["versions"] == ["2.0", "10.0"]
        for path, offset in (("", 10.0), ("/versions/10.0", 10.0), ("/versions/2.0", 2.0)):
            answer = httpx.post(f"{server.url}/v2/models/tiny{path}/infer", json=body(0.0, size=3)).json()
            assert answer["outputs"][0]["data"] == [offset] * 3
        assert httpx.get(server.url + "/v2/models/tiny/versions/1.0").status_code == 404


def test_removing_the_newest_version_rolls_back(tmp_path: Path) -> None:
    for version, offset in (("1.0.0", 1.0), ("2.0.0", 2.0)):
        tiny_package(tmp_path / "tiny" / version, version=version, offset=offset)
    with serving(tmp_path, "--watch-interval", "0.1") as server:
        shutil.rmtree(tmp_path / "tiny" / "2.0.0")
        until(lambda: set(models(server)) == {("tiny", "1.0.0")})
        time.sleep(0.5)
        answer = httpx.post(server.url + "/v2/models/tiny/infer", json=body(0.0, size=3)).json()
        assert answer["model_version"] == "1.0.0" and answer["outputs"][0]["data"] == [1.0] * 3
        assert server.log().count("tiny 1.0.0 is ready") == 1


def test_a_broken_package_keeps_the_old_version_and_shows_up_with_its_code(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    tiny_package(root / "tiny" / "1.0.0")
    broken = tiny_package(tmp_path / "broken", version="2.0.0")
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes() + b"\0")
    with serving(root, "--watch-interval", "0.1") as server:
        os.rename(broken, root / "tiny" / "2.0.0")
        until(lambda: ("tiny", "2.0.0") in models(server))
        listed = models(server)
        assert listed["tiny", "2.0.0"]["state"] == "failed"
        assert listed["tiny", "2.0.0"]["code"] == "DIGEST_MISMATCH"
        assert "model.onnx" in listed["tiny", "2.0.0"]["reason"]
        assert listed["tiny", "1.0.0"]["state"] == "ready"
        answer = httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3))
        assert answer.status_code == 200 and answer.json()["model_version"] == "1.0.0"
        assert httpx.get(server.url + "/v2/health/ready").status_code == 200


def test_a_package_whose_golden_examples_fail_does_not_become_ready_and_says_by_how_much(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny" / "1.0.0", lock=False)
    lines = (folder / "examples.jsonl").read_text().replace("3.0", "3.5", 1).replace("counting", "a wrong promise")
    (folder / "examples.jsonl").write_text(lines)
    (folder / "onward.lock").write_text(lock_text(lock_of(folder)))
    tiny_package(tmp_path / "well" / "1.0.0", name="well")
    with serving(tmp_path, ready=False) as server:
        until(lambda: len(failed_or_none(server)) == 2)
        failed = models(server)["tiny", "1.0.0"]
        assert failed["state"] == "failed" and failed["code"] == "GOLDEN_EXAMPLE_FAILED"
        assert "a wrong promise" in failed["reason"] and "0.5" in failed["reason"], failed["reason"]
        assert httpx.get(server.url + "/v2/health/ready").status_code == 503
        assert httpx.get(server.url + "/v2/models/tiny/ready").status_code == 503
        refused = httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3))
        assert refused.status_code == 503 and refused.json()["code"] == "NOT_READY"
        assert "GOLDEN_EXAMPLE_FAILED" in refused.json()["error"]
        assert httpx.post(server.url + "/v2/models/well/infer", json=body(1.0, size=3)).status_code == 200
        assert "a wrong promise" in server.log()


def failed_or_none(server: Server) -> dict[tuple[str, str], dict[str, Any]]:
    """The admin port's list, or nothing while it does not listen."""
    try:
        return models(server)
    except httpx.TransportError:
        return {}


async def test_while_models_load_the_server_is_live_and_not_ready(tmp_path: Path) -> None:
    folder = tmp_path / "slow" / "1.0.0"
    folder.mkdir(parents=True)
    fields = [field_toml("input", "x", "FP32", (1,)), field_toml("output", "y", "FP32", (1,))]
    text = manifest("slow", fields, execute='backend = "python"\nentry = "model:Slow"\n')
    (folder / "onward.toml").write_text(text)
    (folder / "model.py").write_text(
        "import pathlib, time\n\nclass Slow:\n    def __init__(self, folder):\n"
        f"        if pathlib.Path({str(tmp_path / 'slowly')!r}).exists():\n            time.sleep(1.0)\n\n"
        "    def run(self, feeds):\n        return {'y': feeds['x']}\n"
    )
    assemble(folder)
    (tmp_path / "slowly").touch()
    with serving(tmp_path, ready=False) as server:
        seen: set[tuple[int, int]] = set()

        def listening() -> bool:
            try:
                live = httpx.get(server.url + "/v2/health/live").status_code
                seen.add((live, httpx.get(server.url + "/v2/health/ready").status_code))
            except httpx.TransportError:
                return False
            return (200, 200) in seen

        await asyncio.to_thread(until, listening)
        assert (200, 503) in seen
        wait_until_ready(server)


def test_a_single_package_is_a_repository_of_one(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "anything")
    with serving(folder) as server:
        assert httpx.post(server.url + "/v2/models/tiny/infer", json=body(1.0, size=3)).status_code == 200
    shutil.rmtree(folder)


def test_serving_beyond_this_machine_without_keys_is_refused(tmp_path: Path) -> None:
    import subprocess
    import sys

    tiny_package(tmp_path / "tiny" / "1.0.0")
    command = [sys.executable, "-m", "onward", "serve", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 64
    assert "--insecure" in done.stderr and "Traceback" not in done.stderr
