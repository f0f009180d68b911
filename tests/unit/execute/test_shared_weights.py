"""The processes of one server map the same weights, and answer as one that has its own, to the last bit."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.execute.onnx import OnnxBackend
from onward.execute.shared_weights import VARIABLE
from tests.packages import mlp_package

SIZES = (30, 2048, 256, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mlp_package(tmp_path / "mlp" / "1.0.0", sizes=SIZES) / "model.onnx"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "weights"
    made.mkdir()
    monkeypatch.setenv(VARIABLE, str(made))
    return made


def score(backend: OnnxBackend) -> bytes:
    rows = np.random.default_rng(3).random((17, 30), np.float32)
    answer: Any = backend.run({"features": rows}, ["score"])[0]
    return bytes(answer.tobytes())


def folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


def maps_weights() -> bool:
    return "weights.bin" in Path("/proc/self/maps").read_text()


def test_the_answers_are_the_same_to_the_last_bit_and_the_weights_are_mapped(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = OnnxBackend(model, threads=1)
    assert len(folders(folder)) == 1 and maps_weights()
    monkeypatch.delenv(VARIABLE)
    own = OnnxBackend(model, threads=1)
    assert score(shared) == score(own)
    assert (shared.inputs, shared.outputs) == (own.inputs, own.outputs)
    shared.close()


def test_weights_are_removed_by_the_last_that_used_them_who_still_answers(model: Path, folder: Path) -> None:
    first, second = OnnxBackend(model, threads=1), OnnxBackend(model, threads=1)
    assert len(folders(folder)) == 1
    before = score(first)
    first.close()
    assert len(folders(folder)) == 1
    second.close()
    second.close()
    assert folders(folder) == []
    assert score(second) == before  # what is mapped stays


def answer_in_a_process(model: str, root: str, answers: Any) -> None:
    os.environ[VARIABLE] = root
    backend = OnnxBackend(Path(model), threads=1)
    answers.put((score(backend), maps_weights()))
    os.kill(os.getpid(), 9)  # neither closed nor forgotten


def test_processes_that_begin_at_once_make_one_and_killed_ones_hold_nothing(model: Path, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    started = [context.Process(target=answer_in_a_process, args=(str(model), str(folder), answers)) for _ in range(2)]
    for process in started:
        process.start()
    told = {answers.get() for _ in started}
    for process in started:
        process.join()
    assert len(told) == 1 and next(iter(told))[1]
    (made,) = folders(folder)
    made.rename(made.with_suffix(".draft"))  # as if it had been killed while it wrote
    backend = OnnxBackend(model, threads=1)
    assert score(backend) == next(iter(told))[0] and folders(folder) == [made]
    backend.close()
    assert folders(folder) == []


def test_another_file_of_the_same_name_has_weights_of_its_own(model: Path, folder: Path) -> None:
    first = OnnxBackend(model, threads=1)
    other = mlp_package(model.parents[1] / "2.0.0", version="2.0.0", seed=8, sizes=SIZES) / "model.onnx"
    second = OnnxBackend(other, threads=1)
    assert len(folders(folder)) == 2 and score(first) != score(second)
    for backend in (first, second):
        backend.close()


def test_small_graphs_and_folders_that_are_not_there_are_no_obstacle(
    tmp_path: Path, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    OnnxBackend(mlp_package(tmp_path / "small" / "1.0.0") / "model.onnx", threads=1).close()
    assert list(folder.iterdir()) == []
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    backend = OnnxBackend(model, threads=1)
    assert len(score(backend)) == 17 * 4 and "not shared" in caplog.text
    backend.close()
