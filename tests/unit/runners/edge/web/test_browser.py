"""A browser that is not there, or does not answer, is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.errors import ExecutionError, MissingExtra
from onward.runners.edge.web.browser import answers_in_browser, browser


def test_without_a_browser_it_says_which_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser() is None
    with pytest.raises(MissingExtra, match="chromium"):
        answers_in_browser(tmp_path, [{"x": 1}])


def test_a_browser_that_dies_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexit 21\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ExecutionError, match="ended with 21"):
        answers_in_browser(tmp_path, [{"x": 1}], timeout_s=60)


def test_a_browser_that_says_nothing_is_ended_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexec sleep 600\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ExecutionError, match=r"within 0\.5 s"):
        answers_in_browser(tmp_path, [{"x": 1}], timeout_s=0.5)
