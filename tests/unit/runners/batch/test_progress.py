"""Progress: plain lines now and then without a terminal, one line rewritten in one."""

from __future__ import annotations

import time

import pytest

from onward.runners.batch.progress import Progress


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_without_a_terminal_there_is_a_plain_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(10_000)
    for _ in range(40):
        clock.now_s += 1
        progress.add(100, 1)
    progress.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and not any("\x1b" in line or "\r" in line for line in lines)
    assert lines[0] == "1,000 rows · 100 rows/s · 10% · 1:30 left · 10 rejects"


def test_in_a_terminal_the_line_is_rewritten_and_removed(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = Progress(1000)
    for _ in range(10):
        clock.now_s += 0.1
        progress.add(10, 0)
    progress.end()
    shown = capsys.readouterr().err
    assert shown.count("\r\x1b[K") in range(5, 8) and shown.endswith("\r\x1b[K") and "\n" not in shown


def test_rows_done_before_do_not_count_as_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2000, done=1000)
    clock.now_s += 10
    progress.add(500, 0)
    assert progress.rows_per_s == 50
    assert "1,500 rows · 50 rows/s · 75% · 0:10 left" in capsys.readouterr().err


def test_without_a_total_there_is_no_share(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(None)
    clock.now_s += 4000
    progress.add(8000, 0)
    assert capsys.readouterr().err == "8,000 rows · 2 rows/s\n"


def test_hours_are_told_as_hours(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1_000_000)
    clock.now_s += 100
    progress.add(1000, 0)
    assert "27:45:00 left" in capsys.readouterr().err
