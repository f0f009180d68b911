"""The slim folder has all that its package can run on, and is checked by a Python that has nothing else."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import onward
from onward.errors import ExecutionError
from onward.package.package import open_package
from onward.runners.edge import python_folder
from onward.runners.edge.python_folder import FolderFacts, write_folder
from onward.testing import tiny_package

SOURCES = Path(onward.__file__).parent.parent
# What a copied module imports late and a device never comes to: such packages are refused, and nothing is decided.
NEVER_REACHED = {
    "onward.decide.rules", "onward.dialogue.dialogue", "onward.execute.python", "onward.opening",
    "onward.package.archive", "onward.package.pack", "onward.runners.local",
}  # fmt: skip
# Of these a package needs what its manifest names, and no other.
OF_STEPS = {
    "onward.prepare.image", "onward.prepare.text", "onward.prepare.audio", "onward.prepare.tabular",
    "onward.generate.entities", "onward.execute.certification", "onward.execute.invariance",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FolderFacts]:
    package = open_package(tiny_package(tmp_path_factory.mktemp("package") / "tiny"))
    out = tmp_path_factory.mktemp("folder")
    return out, write_folder(package, out)


def imported(source: str) -> set[str]:
    """Every module of Onward that a source imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "onward":
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return {name for name in found if (path(SOURCES, name)).is_file()}


def path(root: Path, module: str) -> Path:
    file = root / (module.replace(".", "/") + ".py")
    return file if file.is_file() else root / module.replace(".", "/") / "__init__.py"


def test_what_is_imported_late_is_there_too_unless_a_device_never_comes_to_it(
    written: tuple[Path, FolderFacts],
) -> None:
    folder, _ = written
    for file in (folder / "onward").rglob("*.py"):
        lacking = {name for name in imported(file.read_text("utf-8")) if not path(folder, name).is_file()}
        assert lacking <= NEVER_REACHED | OF_STEPS, file.relative_to(folder)


def test_the_modules_are_the_very_ones_that_the_server_runs(written: tuple[Path, FolderFacts]) -> None:
    folder, facts = written
    files = list((folder / "onward").rglob("*.py"))
    assert len(files) == facts.modules
    assert all(file.read_bytes() == (SOURCES / file.relative_to(folder)).read_bytes() for file in files)


def test_bad_input_finds_nothing_missing_where_only_the_requirements_can_be_imported(
    written: tuple[Path, FolderFacts],
) -> None:
    folder, _ = written
    lines = [
        '{"x": "three"}',
        "{}",
        '{"x": [1, 2]}',
        '{"x": [1, 2, 3], "y": 4}',
        "{broken",
        '{"x": [1, 2, NaN]}',
        '"text"',
    ]
    alone = python_folder._ALONE.replace('"--check"', '"-"')
    allowed = json.dumps(["onward", "numpy", "onnxruntime", "msgspec"])
    made = subprocess.run(
        [sys.executable, "-I", "-B", "-c", alone, str(folder), allowed],
        input="\n".join(lines), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in made.stdout.splitlines()]
    assert len(answers) == len(lines), made.stderr
    assert "ModuleNotFoundError" not in made.stdout + made.stderr
    assert "Traceback" not in made.stderr


def test_requirements_are_pinned_to_what_was_checked(written: tuple[Path, FolderFacts]) -> None:
    folder, facts = written
    assert (folder / "requirements.txt").read_text("utf-8").split() == list(facts.requirements)
    assert [line.partition("==")[0] for line in facts.requirements] == ["numpy", "onnxruntime", "msgspec"]


def test_a_check_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_folder, "_CHECK_S", 0.2)
    with pytest.raises(ExecutionError, match="does not come to an end"):
        python_folder._told(["-c", "import time; time.sleep(30)"])


def test_a_folder_that_fails_says_why() -> None:
    with pytest.raises(ExecutionError, match="no such thing"):
        python_folder._told(["-c", "raise SystemExit('no such thing')"])
