"""The python backend runs a package's own source in a process of its own and checks what it answers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from onward.errors import ExecutionError, PackageError
from onward.execute.backend import Batched
from onward.execute.python import ProcessOptions, PythonBackend, specs_of
from onward.package.manifest import parse_manifest
from onward.types import Array, TensorSpec

INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),)
OUTPUTS = (
    TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),
    TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
)
MODEL = """
    import os, sys
    import numpy as np
    import words

    class Model:
        def __init__(self, folder):
            self.word = (folder / "word.txt").read_text()

        def run(self, feeds):
            x = feeds["x"]
            return {"y": x * 2, "label": np.array([words.shout(self.word)] * len(x))}
"""

Make = Callable[..., PythonBackend]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Writes `model.py` and starts it; ends what it started."""
    backends: list[PythonBackend] = []

    def start(source: str, *, options: ProcessOptions | None = None, entry: str = "model:Model") -> PythonBackend:
        (tmp_path / "model.py").write_text(dedent(source))
        (tmp_path / "word.txt").write_text("été")
        (tmp_path / "words.py").write_text("def shout(word):\n    return word.upper()\n")
        backends.append(PythonBackend(tmp_path, entry, INPUTS, OUTPUTS, options=options))
        return backends[-1]

    yield start
    for backend in backends:
        backend.close()


def x_of(rows: int) -> dict[str, Array]:
    return {"x": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}


def test_it_answers_with_the_packages_own_files_and_modules(make: Make) -> None:
    backend = make(MODEL)
    assert isinstance(backend, Batched)
    assert (backend.inputs, backend.outputs) == (INPUTS, OUTPUTS)
    label, y = backend.run(x_of(3), ["label", "y"])
    np.testing.assert_array_equal(y, x_of(3)["x"] * 2)
    assert label.tolist() == ["ÉTÉ".encode()] * 3


def test_the_model_runs_in_one_process_that_is_not_ours(make: Make) -> None:
    backend = make(MODEL.replace('x * 2, "label"', 'x * 0 + os.getpid(), "label"'))
    pids = {int(backend.run(x_of(1), ["y"])[0][0, 0]) for _ in range(3)}
    assert pids == {backend.pid}
    assert backend.pid != os.getpid()


def test_what_the_model_prints_goes_to_the_log_and_not_into_the_answer(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="onward.execute.python")
    talk = (
        'print("hello"); os.write(1, b"\\0\\xff\\n"); os.system("echo from a shell"); sys.stderr.write("oops\\n"); x ='
    )
    backend = make(MODEL.replace("x =", talk, 1))
    for _ in range(3):
        np.testing.assert_array_equal(backend.run(x_of(1), ["y"])[0], x_of(1)["x"] * 2)
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s and caplog.messages.count("oops") < 3:
        time.sleep(0.01)
    assert [caplog.messages.count(line) for line in ("hello", "from a shell", "oops")] == [3, 3, 3]


def test_reading_stdin_does_not_hang_the_model(make: Make) -> None:
    backend = make(MODEL.replace("x =", "assert sys.stdin.read() == ''; x =", 1))
    backend.run(x_of(1), ["y"])


def test_an_exception_fails_its_batch_with_the_models_message_and_only_its_batch(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make(MODEL.replace("x =", 'assert feeds["x"].max() < 9, "too big for me"; x =', 1))
    pid = backend.pid
    with pytest.raises(ExecutionError, match="AssertionError: too big for me"):
        backend.run(x_of(9), ["y"])
    assert "Traceback" in caplog.text
    assert "model.py" in caplog.text
    backend.run(x_of(1), ["y"])
    assert backend.pid == pid


def test_sys_exit_in_the_model_fails_the_batch_and_not_the_process(make: Make) -> None:
    backend = make(MODEL.replace("x =", "sys.exit(3); x =", 1))
    pid = backend.pid
    for _ in range(2):
        with pytest.raises(ExecutionError, match="SystemExit: 3"):
            backend.run(x_of(1), ["y"])
    assert backend.pid == pid


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"y": x.astype("float64")}', r"FP64 \[2, 2\]"),
        ('{"y": x[:1]}', r"FP32 \[1, 2\]"),
        ('{"y": x[:, :1]}', r"FP32 \[2, 1\]"),
        ('{"y": x.ravel()}', r"FP32 \[4\]"),
        ('{"z": x}', "gave no output 'y'"),
        ("[x]", "gave a list, expected a dict"),
        ('{"y": {1}}', "holds a set"),
        ('{"y": x + 1j}', "no datatype"),
    ],
)
def test_an_answer_that_does_not_fit_the_manifest_is_an_error_that_says_how(
    make: Make, answer: str, found: str
) -> None:
    backend = make(
        f"class Model:\n def __init__(self, folder): pass\n def run(self, feeds):\n  x = feeds['x']\n  return {answer}"
    )
    with pytest.raises(ExecutionError, match=found):
        backend.run(x_of(2), ["y"])


def test_an_output_that_the_package_does_not_have_is_an_error(make: Make) -> None:
    with pytest.raises(ExecutionError, match="no output 'z'"):
        make(MODEL).run(x_of(1), ["z"])


@pytest.mark.parametrize(
    ("source", "entry", "message"),
    [
        (
            "class Model:\n def __init__(self, folder): raise RuntimeError('no weights here')",
            "model:Model",
            "no weights",
        ),
        ("class Model: pass\nModel.__init__ = lambda self, folder: None", "model:Model", "no method run"),
        ("import nowhere_to_be_found", "model:Model", "nowhere_to_be_found"),
        ("x = (", "model:Model", "SyntaxError"),
        ("import os; os._exit(7)", "model:Model", "died while it started .exit status 7"),
        ("", "model:Model", "no class Model"),
        ("", "other:Model", "no other.py"),
        ("", "../model:Model", "expected module:Class"),
        ("", "model", "expected module:Class"),
    ],
)
def test_a_model_that_cannot_start_is_a_package_error_that_says_why(
    make: Make, source: str, entry: str, message: str
) -> None:
    with pytest.raises(PackageError, match=message):
        make(source, entry=entry)


def test_a_model_that_does_not_become_ready_is_ended(make: Make) -> None:
    with pytest.raises(PackageError, match=r"not ready after 0\.5 s"):
        make("import time; time.sleep(60)", options=ProcessOptions(start_timeout_s=0.5))


def test_a_file_of_the_package_does_not_shadow_the_standard_library(make: Make, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')")
    make("import json\n" + dedent(MODEL)).run(x_of(1), ["y"])


def test_running_leaves_the_package_folder_as_it_was(make: Make, tmp_path: Path) -> None:
    make(MODEL).run(x_of(1), ["y"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.py", "word.txt", "words.py"]


def test_close_ends_the_process_and_is_idempotent(make: Make) -> None:
    backend = make(MODEL)
    pid = backend.pid
    assert pid is not None
    backend.close()
    backend.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ExecutionError, match="closed"):
        backend.run(x_of(1), ["y"])


MANIFEST = """
format = 1
[package]
name = "mine"
version = "1.0.0"
task = "tensor"
licence = "Apache-2.0"
description = "test"
{inputs}
[[output]]
name = "y"
datatype = "FP32"
shape = [2]
{steps}
[execute]
backend = "python"
entry = "model:Model"
"""


def field(name: str, datatype: str = "FP32", extra: str = "") -> str:
    return f'[[input]]\nname = "{name}"\ndatatype = "{datatype}"\n{extra}\n'


@pytest.mark.parametrize(
    ("inputs", "steps", "expected"),
    [
        (field("x", extra="shape = [-1, 3]"), "", [("x", "FP32", (-1, -1, 3))]),
        (
            field("a") + field("b"),
            '[[prepare]]\nstep = "table"\ncolumns = ["a", "b"]\noutput = "features"',
            [("features", "FP32", (-1, 2))],
        ),
        (
            field("text", "BYTES", 'content = "text"'),
            '[[prepare]]\nstep = "tokenize"\ninput = "text"\noutputs = ["ids", "mask"]',
            [("ids", "INT64", (-1, -1)), ("mask", "INT64", (-1, -1))],
        ),
        (
            field("photo", "BYTES", 'content = "image"'),
            '[[prepare]]\nstep = "decode_image"\ninput = "photo"\noutput = "pixels"',
            [("pixels", "UINT8", (-1, -1, -1, 3))],
        ),
    ],
)
def test_the_tensors_follow_from_the_fields_and_the_prepare_steps(
    inputs: str, steps: str, expected: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    got_inputs, got_outputs = specs_of(parse_manifest(MANIFEST.format(inputs=inputs, steps=steps)))
    assert [(spec.name, spec.datatype, spec.shape) for spec in got_inputs] == expected
    assert got_outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),)
