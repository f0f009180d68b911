"""The processes that answer are Onward's own, wherever they are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.errors import ExecutionError
from onward.runners.agreement.answering import batch


def test_modules_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('this is not the library')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExecutionError, match=r"onward batch failed: .*no such package"):
        batch(tmp_path / "nothing", [], tmp_path)
