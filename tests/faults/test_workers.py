"""A server of several workers: one is killed, all are told to stop, versions are swapped, while callers keep at it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from onward.testing import tiny_package
from tests.acceptance.calling import Callers, workers, workers_of
from tests.acceptance.conftest import STOP_TIMEOUT_S, Server, serving, start

CALLERS = 16
REPLACED_WITHIN_S = 5.0


async def until(holds: Callable[[], object], within_s: float) -> float:
    """Wait for something to become true; how long it took."""
    begun_s = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() - begun_s < within_s, "it did not come true"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun_s


def all_ready(server: Server, but: int = 0, count: int = 2) -> bool:
    """Whether so many workers are ready, and none has this process id any more."""
    found = workers(server)
    return [one["state"] for one in found if one["pid"] != but] == ["ready"] * count


async def test_a_worker_that_is_killed_loses_what_it_had_in_hand_and_nothing_else_and_is_replaced(
    tmp_path: Path,
) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    begun_s = time.monotonic()
    with serving(tmp_path, "--workers", "2") as server:
        # Where a start takes about a second; on a machine that is busy with other things, in proportion.
        within_s = max(REPLACED_WITHIN_S, 3 * (time.monotonic() - begun_s))
        callers = Callers(server.port, CALLERS)
        await until(lambda: callers.counts["1.0.0"] > 200, 20)
        for slot in (0, 1):
            pid = next(one["pid"] for one in workers(server) if one["slot"] == slot)
            theirs = {port for port, owner in workers_of(server).items() if owner == pid}
            before = callers.lost.copy()
            os.kill(pid, signal.SIGKILL)
            answered = callers.counts["1.0.0"]
            await until(lambda gone=pid: all_ready(server, gone), within_s)  # type: ignore[misc]
            assert callers.counts["1.0.0"] > answered, "nobody was answered meanwhile"
            assert httpx.get(server.url + "/v2/health/ready").status_code == 200
            lost = callers.lost - before
            # Each of its connections had one request in hand at most; others' connections had nothing to fear. Those
            # that were made between looking and killing are its own, too: few, as callers keep their connections.
            assert max(lost.values(), default=0) <= 1
            assert len(lost.keys() - theirs) <= 1, (lost, theirs)
        await callers.stop()
        assert callers.wrong == [] and callers.refused == 0
        counted = httpx.get(server.admin_url + "/metrics").text
        assert "onward_workers_replaced_total 2.0" in counted
        assert "Traceback" not in server.log()


async def test_sigterm_under_load_answers_all_that_was_taken_and_exits_with_0(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--workers", "2") as server:
        pids = [one["pid"] for one in workers(server)]
        callers = Callers(server.port, CALLERS)
        await until(lambda: callers.counts["1.0.0"] > 200, 20)
        callers.draining = True
        server.process.send_signal(signal.SIGTERM)
        await callers.stop_when_refused()
        assert await asyncio.to_thread(server.process.wait, STOP_TIMEOUT_S) == 0
        assert callers.wrong == [] and not callers.lost
        assert callers.told_to_close == CALLERS
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
        assert "every worker has ended" in server.log() and "Traceback" not in server.log()


async def test_versions_are_swapped_under_load_without_a_lost_or_wrong_answer(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    tiny_package(root / "tiny" / "1.0.0")
    newer = tiny_package(tmp_path / "newer", version="2.0.0", offset=5.0)
    with serving(root, "--workers", "2", "--watch-interval", "0.1") as server:
        callers = Callers(server.port, CALLERS)
        await until(lambda: callers.counts["1.0.0"] > 200, 20)
        os.rename(newer, root / "tiny" / "2.0.0")

        def swapped() -> bool:
            listed = httpx.get(server.admin_url + "/admin/models").json()["models"]
            return [(one["version"], one["workers"]) for one in listed] == [("2.0.0", [0, 1])]

        await until(swapped, 10)
        old = callers.counts["1.0.0"]
        await until(lambda: callers.counts["2.0.0"] > 200, 20)
        await callers.stop()
        assert callers.counts["1.0.0"] <= old + CALLERS  # what was under way
        assert callers.wrong == [] and not callers.lost and callers.refused == 0


async def test_a_version_that_does_not_load_in_one_worker_is_tried_in_no_other(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    tiny_package(root / "tiny" / "1.0.0")
    broken = tiny_package(tmp_path / "broken", version="2.0.0", offset=5.0)
    (broken / "model.onnx").write_bytes(b"no graph")
    with serving(root, "--workers", "2", "--watch-interval", "0.1") as server:
        os.rename(broken, root / "tiny" / "2.0.0")

        def failed() -> list[dict[str, Any]]:
            listed = httpx.get(server.admin_url + "/admin/models").json()["models"]
            return [one for one in listed if one["state"] == "failed"]

        await until(lambda: bool(failed()), 10)
        await asyncio.sleep(0.5)
        assert [(one["version"], one["workers"]) for one in failed()] == [("2.0.0", [0])]
        assert server.log().count("tiny 2.0.0 did not load") == 1
        assert httpx.get(server.url + "/v2/health/ready").status_code == 200


@pytest.mark.long
async def test_a_file_whose_name_is_no_text_makes_one_version_fail_and_harms_no_worker(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    tiny_package(root / "tiny" / "1.0.0")
    odd = tiny_package(tmp_path / "odd", version="2.0.0", offset=5.0)
    Path(os.fsdecode(bytes(odd) + b"/\xff.bin")).write_bytes(b"")
    with serving(root, "--workers", "2", "--watch-interval", "0.1") as server:
        pids = [one["pid"] for one in workers(server)]
        os.rename(odd, root / "tiny" / "2.0.0")

        def listed() -> list[tuple[str, str]]:
            found = httpx.get(server.admin_url + "/admin/models").json()["models"]
            return sorted((one["version"], one["state"]) for one in found)

        await until(lambda: ("2.0.0", "failed") in listed(), 10)
        assert all_ready(server) and [one["pid"] for one in workers(server)] == pids
        # Nobody waits for a worker that could not say it: what comes next is looked at, too.
        os.rename(tiny_package(tmp_path / "newest", version="3.0.0"), root / "tiny" / "3.0.0")
        await until(lambda: ("3.0.0", "ready") in listed(), 10)
        assert "Traceback" not in server.log()


@pytest.mark.long
async def test_connections_that_say_nothing_do_not_keep_a_worker_from_being_replaced(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--workers", "2", files=128) as server, contextlib.ExitStack() as idle:
        pids = [one["pid"] for one in workers(server)]
        port = int(server.admin_url.rpartition(":")[2])
        for _ in range(200):
            idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        await asyncio.sleep(0.5)
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: not is_running(pids[0]), 5)
        await asyncio.sleep(1)
        idle.close()
        await until(lambda: all_ready(server, pids[0]), 20)


async def test_who_is_told_to_stop_twice_ends_at_once_and_leaves_no_weights_behind(tmp_path: Path) -> None:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    folder = tmp_path / "temporary"
    folder.mkdir()
    options = ("--workers", "2", "--drain-grace", "60")
    running = start(tmp_path / "repository", *options, environment={"TMPDIR": str(folder)})
    try:
        await until(lambda: list(folder.glob("onward-weights-*")), 20)
        await until(lambda: is_listening(running), 20)
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in running.log(), 10)
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, 10) == 0
        assert list(folder.glob("onward-weights-*")) == []
    finally:
        running.process.kill()
        running.process.wait()
        running.log_file.unlink()


def is_listening(server: Server) -> bool:
    """Whether the admin port answers: by then, signals are heard."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(server.admin_url + "/admin/workers").status_code == 200
    return False


async def test_the_workers_of_a_supervisor_that_is_killed_finish_and_free_the_port(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    server_pids: list[int] = []
    with serving(tmp_path, "--workers", "2") as server:
        server_pids = [one["pid"] for one in workers(server)]
        callers = Callers(server.port, 4)
        await until(lambda: callers.counts["1.0.0"] > 20, 10)
        callers.draining = True
        server.process.kill()
        await callers.stop_when_refused()
        assert callers.wrong == [] and not callers.lost
        await until(lambda: not any(map(is_running, server_pids)), 10)
        server.process.wait()
        server.process.returncode = 0  # it was us


def is_running(pid: int) -> bool:
    """Whether a process is there and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_worker_that_dies_again_and_again_is_replaced_ever_later(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--workers", "2") as server:
        killed: list[int] = []
        for _ in range(3):
            await until(partial(of_slot_1, server, killed), 20)
            killed += of_slot_1(server, killed)
            os.kill(killed[-1], signal.SIGKILL)
        await until(lambda: not killed or all_ready(server, killed[-1]), 20)
        starts = [line for line in server.log().splitlines() if "another one starts in" in line]
        assert [line.rpartition(" in ")[2] for line in starts] == ["0 s", "0.25 s", "0.5 s"]
        assert httpx.post(server.url + "/v2/models/tiny/infer", json=BODY).status_code == 200


def of_slot_1(server: Server, killed: Sequence[int]) -> list[int]:
    """The process of slot 1, unless it is one of those."""
    return [one["pid"] for one in workers(server) if one["slot"] == 1 and one["pid"] not in killed]


BODY = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
