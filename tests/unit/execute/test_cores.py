"""A process in a container takes as many threads as its quota is worth, not as its node has cores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from onward.execute import cores as module
from onward.execute.cores import cores, quota


def group(root: Path, path: str, limit: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / "cpu.max").write_text(limit)


def own(root: Path, line: str) -> Path:
    file = root / "own"
    file.write_text(line)
    return file


def test_the_least_quota_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    group(tmp_path, "pods", "150000 100000\n")
    group(tmp_path, "pods/one", "400000 100000\n")
    assert quota(tmp_path, own(tmp_path, "0::/pods/one\n")) == 1.5


def test_a_container_that_sees_itself_as_the_root_finds_its_quota(tmp_path: Path) -> None:
    group(tmp_path, "", "250000 100000\n")
    assert quota(tmp_path, own(tmp_path, "0::/\n")) == 2.5


@pytest.mark.parametrize("limit", ["max 100000\n", "", "nonsense", "1 0\n"])
def test_without_a_readable_quota_there_is_none(tmp_path: Path, limit: str) -> None:
    group(tmp_path, "", limit)
    assert quota(tmp_path, own(tmp_path, "0::/\n")) == math.inf


def test_without_control_groups_there_is_none(tmp_path: Path) -> None:
    assert quota(tmp_path, tmp_path / "missing") == math.inf
    assert quota(tmp_path, own(tmp_path, "4:cpu:/old\n")) == math.inf


@pytest.mark.parametrize(("granted", "threads"), [(0.25, 1), (1.0, 1), (1.5, 2), (math.inf, None)])
def test_a_part_of_a_core_still_is_a_thread(
    monkeypatch: pytest.MonkeyPatch, granted: float, threads: int | None
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(module, "quota", lambda: granted)
    assert cores() == (threads or 8)


@pytest.mark.parametrize(("said", "threads"), [("2", 2), ("1.5", 2), ("64", 8), ("0", 8), ("-1", 8), ("many", 8)])
def test_a_share_can_be_granted_by_the_environment_but_no_more_than_there_is(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(module, "quota", lambda: math.inf)
    monkeypatch.setenv("ONWARD_CORES", said)
    assert cores() == threads
