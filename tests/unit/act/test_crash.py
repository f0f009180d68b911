"""Crash points: off unless asked for, and then as sudden as a power cut."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from onward.act import crash

SOURCES = Path(crash.__file__).parents[1]
PROGRAM = """
import atexit, sys
from onward.act import crash
atexit.register(lambda: print("said goodbye"))
for _ in range(3):
    crash.point("relay.leased")
    crash.point("relay.done")
print("whole")
"""


def ran(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | env, text=True, capture_output=True)


def test_without_the_environment_nothing_happens() -> None:
    assert ran().stdout == "whole\nsaid goodbye\n"


@pytest.mark.parametrize(("hit", "lines"), [("1", 2), ("3", 6)])
def test_at_its_point_the_process_is_killed_and_the_points_reached_are_written(
    tmp_path: Path, hit: str, lines: int
) -> None:
    log = tmp_path / "points"
    made = ran(ONWARD_CRASH_AT="relay.done", ONWARD_CRASH_HIT=hit, ONWARD_CRASH_LOG=str(log))
    assert (made.returncode, made.stdout) == (-9, "")
    assert log.read_text().split() == (["relay.leased", "relay.done"] * 3)[:lines]


def test_a_point_that_does_not_exist_is_an_error_when_it_is_asked_for() -> None:
    assert "names no crash point" in ran(ONWARD_CRASH_AT="relay.dnoe").stderr


def test_every_point_stands_in_the_code_and_every_one_in_the_code_is_listed() -> None:
    used = set()
    for path in (SOURCES / "act").glob("*.py"):
        text = path.read_text("utf-8")
        used |= set(re.findall(r'crash\.point\("([a-z.]+)"\)', text))
        used |= set(re.findall(r'ActionState\.\w+: "(relay\.[a-z]+)"', text))
    assert used <= set(crash.POINTS)
    assert {name for name in crash.POINTS if name.startswith("relay.")} <= used
