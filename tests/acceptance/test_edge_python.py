"""A package as a folder for devices, run by a Python that has nothing but the folder and its requirements."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onward.package.examples import read_examples
from tests.acceptance.conftest import png, write_loan, write_shade

GALLERY = Path("var/repository")


def onward(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "onward", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def run(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the folder's reader: isolated, in another folder, and so without Onward's own sources."""
    argv = [sys.executable, "-B", str(folder / "run.py"), *arguments]
    return subprocess.run(argv, cwd=folder.parent, input=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def loan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    write_loan(folder / "package")
    made = onward("edge", str(folder / "package"), str(folder / "loan"), "--json")
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert [line.partition("==")[0] for line in report["requirements"]] == ["numpy", "onnxruntime", "msgspec"]
    assert report["examples"] == 1
    assert 0 < report["first_answer_ms"] < 60_000
    return folder / "loan"


def test_the_folder_answers_as_its_golden_example_says(loan: Path) -> None:
    example = read_examples(loan / "package")[0]
    made = run(loan, json.dumps(example.input))
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert {name: answer[name] for name in example.answer} == example.answer


def test_the_folder_has_no_server_and_no_test_in_it(loan: Path) -> None:
    modules = {path.relative_to(loan).as_posix() for path in loan.rglob("*.py")}
    assert "onward/pipeline.py" in modules
    assert not [name for name in modules if "runners" in name or "cli" in name or "store" in name]
    assert sum(path.stat().st_size for path in (loan / "onward").rglob("*")) < 1_000_000


def test_bad_input_is_told_by_its_code_and_the_next_one_is_answered(loan: Path) -> None:
    good = read_examples(loan / "package")[0].input
    lines = [{**good, "amount": "much"}, {"income": 1}, good]
    made = run(loan, "-", given="".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    told = [json.loads(line) for line in made.stdout.splitlines()]
    assert [one.get("error") for one in told] == ["WRONG_DATATYPE", "MISSING_INPUT", None, "INVALID_INPUT"]
    assert made.returncode == 65
    assert "Traceback" not in made.stderr


def test_it_is_a_module_to_import_too(loan: Path) -> None:
    code = "import run; print(run.open()(" + repr(dict(read_examples(loan / "package")[0].input)) + ").answer['label'])"
    made = subprocess.run([sys.executable, "-B", "-c", code], cwd=loan, capture_output=True, text=True, check=False)
    assert made.stdout.strip() == "approve", made.stderr


def test_pictures_are_read_from_files_and_from_base64(tmp_path: Path) -> None:
    write_shade(tmp_path / "package")
    assert onward("edge", str(tmp_path / "package"), str(tmp_path / "shade")).returncode == 0
    picture = png((200, 30, 20), (64, 48))
    (tmp_path / "red.png").write_bytes(picture)
    made = run(tmp_path / "shade", str(tmp_path / "red.png"), json.dumps({"image": base64.b64encode(picture).decode()}))
    answers = [json.loads(line) for line in made.stdout.splitlines()]
    assert [one["label"] for one in answers] == ["red", "red"]
    assert answers[0] == answers[1]
    assert run(tmp_path / "shade", str(tmp_path / "none.png")).returncode == 65


def test_what_is_there_already_is_left_alone(loan: Path, tmp_path: Path) -> None:
    write_loan(tmp_path / "package")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", "utf-8")
    made = onward("edge", str(tmp_path / "package"), str(tmp_path / "out"))
    assert made.returncode == 64
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "package"]


@pytest.mark.weights
@pytest.mark.parametrize("name", ["support", "assistant-llm", "voice"])
def test_a_package_that_needs_more_than_a_graph_is_refused_by_name(name: str, tmp_path: Path) -> None:
    if not (GALLERY / name).is_dir():
        pytest.skip(f"{name} is not built: make gallery")
    made = onward("edge", str(GALLERY / name / "1.0.0"), str(tmp_path / "out"))
    assert made.returncode == 65
    assert "NOT_FOR_EDGE" in made.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.weights
@pytest.mark.parametrize("name", ["fraud", "vision", "intent", "embed"])
def test_packages_of_the_gallery_answer_on_a_device_as_behind_the_server(name: str) -> None:
    if not (GALLERY / name).is_dir():
        pytest.skip(f"{name} is not built: make gallery")
    made = onward("verify", str(GALLERY / name / "1.0.0"), "--runners", "serve,python", "--inputs", "80", "--json")
    assert made.returncode == 0, made.stderr
    rows: list[dict[str, Any]] = [json.loads(line) for line in made.stdout.splitlines()]
    assert [(row["runner"], row["agreeing"]) for row in rows] == [("serve", 80), ("python", 80)]
    assert rows[1]["difference"] < 1e-6
