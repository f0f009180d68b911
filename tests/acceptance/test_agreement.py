"""One answer everywhere: `onward verify --runners` starts each runner for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import write_loan, write_shade

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")
GALLERY = Path("var/repository")
ANSWERED_ALIKE = ("fraud", "vision", "intent", "embed")


def verify(package: Path, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command: its status, its rows, and what it says of errors."""
    argv = [sys.executable, "-m", "onward", "verify", str(package), "--json", *options]
    made = subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False)
    return made.returncode, [json.loads(line) for line in made.stdout.splitlines()], made.stderr


@pytest.mark.parametrize("write", [write_loan, write_shade])
def test_a_server_under_load_a_job_and_a_call_give_the_same_answers(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "package")
    status, rows, said = verify(tmp_path / "package", "--runners", "local,serve,batch", "--inputs", "60")
    assert status == 0, said
    assert [row["runner"] for row in rows] == ["local", "serve", "batch"]
    assert all(row["inputs"] == row["agreeing"] == 60 for row in rows)
    assert len({row["refused"] for row in rows}) == 1


@pytest.mark.weights
@pytest.mark.parametrize("name", ANSWERED_ALIKE)
def test_packages_of_the_gallery_answer_alike_in_every_runner(name: str) -> None:
    folder = GALLERY / name / "1.0.0"
    if not folder.is_dir():
        pytest.skip(f"{name} is not built: make gallery")
    status, rows, said = verify(folder, "--runners", "serve,batch,local", "--inputs", "80")
    assert status == 0, said
    assert all(row["inputs"] == row["agreeing"] == 80 for row in rows)
    assert max(row["difference"] for row in rows) < 1e-6


@pytest.mark.parametrize("runners", ["serve", "serve,serve", "serve,nowhere"])
def test_fewer_than_two_runners_are_nothing_to_compare(runners: str, tmp_path: Path) -> None:
    write_loan(tmp_path / "loan")
    status, rows, said = verify(tmp_path / "loan", "--runners", runners)
    assert status != 0
    assert rows == []
    assert "two or more of local, serve, batch" in said
