"""`import onward` is light and has no effects; neither has the command's help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 0.15
HEAVY = ("numpy", "onnxruntime", "msgspec", "uvicorn", "starlette", "tokenizers", "PIL", "rich", "onnx", "sklearn")
REPORT = """
import json, sys, threading
before = set(sys.modules)
{what}
print(json.dumps({{"modules": sorted(set(sys.modules) - before), "threads": threading.active_count()}}))
"""


def seconds(code: str, folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    return time.perf_counter() - started


def report(what: str, folder: Path) -> dict[str, list[str] | int]:
    code = REPORT.format(what=what)
    made = subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True, text=True)
    assert made.stderr == ""
    loaded: dict[str, list[str] | int] = json.loads(made.stdout)
    return loaded


def test_import_takes_little_longer_than_a_bare_interpreter(tmp_path: Path) -> None:
    assert min(seconds("import onward", tmp_path) - seconds("", tmp_path) for _ in range(3)) < LIMIT_S


def test_import_loads_nothing_heavy_starts_no_thread_and_writes_no_file(tmp_path: Path) -> None:
    loaded = report("import onward", tmp_path)
    assert loaded["threads"] == 1
    assert not [name for name in loaded["modules"] if name.partition(".")[0] in HEAVY]  # type: ignore[union-attr]
    assert not list(tmp_path.iterdir())


def test_the_command_line_loads_nothing_heavy_before_it_knows_the_command(tmp_path: Path) -> None:
    loaded = report("import onward.cli", tmp_path)
    assert not [name for name in loaded["modules"] if name.partition(".")[0] in HEAVY]  # type: ignore[union-attr]
