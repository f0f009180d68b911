"""The python backend survives its process: killed, crashing, hanging; and its process does not survive us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

import onward
from onward.errors import ExecutionError
from onward.execute.python import ProcessOptions, PythonBackend
from onward.types import Array, TensorSpec

X = TensorSpec(name="x", datatype="FP32", shape=(-1,))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1,))
# What the first value of a batch makes the model do.
WELL, EXIT, SEGFAULT, HANG, GRANDCHILD = 0.0, 1.0, 2.0, 3.0, 4.0
MODEL = """
    import ctypes, os, pathlib, subprocess, sys, time

    class Model:
        def __init__(self, folder):
            self.folder = folder
            starts = folder / "starts"
            with starts.open("a") as file:
                file.write("x")
            if (folder / "broken").exists():
                os._exit(9)

        def run(self, feeds):
            what = feeds["x"][0]
            if what == 1:
                os._exit(5)
            if what == 2:
                ctypes.string_at(0)
            if what == 3:
                (self.folder / "hanging").write_text(str(os.getpid()))
                time.sleep(600)
            if what == 4:
                child = subprocess.Popen(["sleep", "600"])
                (self.folder / "grandchild").write_text(str(child.pid))
                time.sleep(600)
            if what == 5:
                (self.folder / "hanging").write_text(str(os.getpid()))
                ctypes.PyDLL(None).sleep(600)  # holds the GIL: no thread of this process can act
            return {"y": feeds["x"] + 1}
"""
HOLD_THE_GIL = 5.0


def feeds(what: float) -> dict[str, Array]:
    return {"x": np.array([what], np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(dedent(MODEL))
    return tmp_path


@pytest.fixture
def backend(folder: Path) -> Iterator[PythonBackend]:
    options = ProcessOptions(run_timeout_s=60.0, stop_timeout_s=1.0, backoff_s=0.4, max_backoff_s=0.8)
    backend = PythonBackend(folder, "model:Model", (X,), (Y,), options=options)
    yield backend
    backend.close()


def gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether the process ends (or is only waiting to be reaped) in time."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z" and all_threads_ended(pid):
            return True
        time.sleep(0.01)
    return False


def all_threads_ended(pid: int) -> bool:
    """Whether a dead process can be reaped: its first thread is a zombie a moment before its last one has ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # not a child of ours: somebody else reaps it
        return True


def wait_for(file: Path, within_s: float = 20.0) -> int:
    """The pid that the model writes into the file."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if file.exists() and (text := file.read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError(f"{file.name} was never written")


def answers(backend: PythonBackend) -> None:
    np.testing.assert_array_equal(backend.run(feeds(WELL), ["y"])[0], [1.0])


@pytest.mark.parametrize(("what", "how"), [(EXIT, "exit status 5"), (SEGFAULT, "killed by SIGSEGV")])
def test_a_crash_fails_the_batch_it_ran_and_the_next_one_gets_a_new_process(
    backend: PythonBackend, what: float, how: str
) -> None:
    first = backend.pid
    with pytest.raises(ExecutionError, match=how):
        backend.run(feeds(what), ["y"])
    answers(backend)
    assert backend.pid != first


def test_a_process_killed_during_a_batch_fails_that_batch_alone(backend: PythonBackend, folder: Path) -> None:
    def kill() -> None:
        os.kill(wait_for(folder / "hanging"), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ExecutionError, match="killed by SIGKILL"):
        backend.run(feeds(HANG), ["y"])
    killer.join()
    answers(backend)


def test_a_process_killed_between_batches_is_replaced_without_failing_one(backend: PythonBackend) -> None:
    answers(backend)
    pid = backend.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    answers(backend)
    assert backend.pid != pid


def test_a_batch_that_takes_too_long_is_ended_and_the_next_one_runs(folder: Path) -> None:
    options = ProcessOptions(run_timeout_s=0.5)
    backend = PythonBackend(folder, "model:Model", (X,), (Y,), options=options)
    pid = backend.pid
    assert pid is not None
    with pytest.raises(ExecutionError, match=r"did not answer within 0\.5 s"):
        backend.run(feeds(HANG), ["y"])
    assert gone(pid)
    answers(backend)
    backend.close()


def test_crash_after_crash_the_process_rests_and_batches_fail_at_once_meanwhile(
    backend: PythonBackend, folder: Path
) -> None:
    for _ in range(2):
        with pytest.raises(ExecutionError, match="exit status 5"):
            backend.run(feeds(EXIT), ["y"])
    starts = len((folder / "starts").read_text())
    for _ in range(20):
        with pytest.raises(ExecutionError, match=r"died 2 times in a row .* started again in 0\.\d s"):
            backend.run(feeds(WELL), ["y"])
    assert len((folder / "starts").read_text()) == starts == 2
    time.sleep(0.45)
    answers(backend)


def test_an_answered_batch_ends_the_row_of_crashes(backend: PythonBackend) -> None:
    for _ in range(3):
        with pytest.raises(ExecutionError, match="exit status 5"):
            backend.run(feeds(EXIT), ["y"])
        answers(backend)


def test_a_process_that_no_longer_starts_fails_batches_until_it_does(backend: PythonBackend, folder: Path) -> None:
    with pytest.raises(ExecutionError, match="exit status 5"):
        backend.run(feeds(EXIT), ["y"])
    (folder / "broken").touch()
    with pytest.raises(ExecutionError, match=r"died while it started \(exit status 9\)"):
        backend.run(feeds(WELL), ["y"])
    with pytest.raises(ExecutionError, match="started again in"):
        backend.run(feeds(WELL), ["y"])
    (folder / "broken").unlink()
    time.sleep(0.45)
    answers(backend)


def test_close_ends_a_running_batch_and_what_the_model_started(backend: PythonBackend, folder: Path) -> None:
    raised: list[ExecutionError] = []

    def run() -> None:
        try:
            backend.run(feeds(GRANDCHILD), ["y"])
        except ExecutionError as error:
            raised.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    grandchild = wait_for(folder / "grandchild")
    pid = backend.pid
    assert pid is not None
    backend.close()
    runner.join(5.0)
    assert not runner.is_alive()
    assert "closed while it ran" in str(raised[0])
    assert gone(pid)
    assert gone(grandchild)


@pytest.mark.parametrize("what", [WELL, HANG, HOLD_THE_GIL, GRANDCHILD])
def test_the_process_ends_when_its_parent_is_killed(folder: Path, what: float) -> None:
    script = f"""
        import sys
        from pathlib import Path
        import numpy as np
        from onward.execute.python import PythonBackend
        from onward.types import TensorSpec
        x, y = (TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in "xy")
        backend = PythonBackend(Path({str(folder)!r}), "model:Model", (x,), (y,))
        print(backend.pid, flush=True)
        backend.run({{"x": np.array([{what}], np.float32)}}, ["y"])
        sys.stdin.read()
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(onward.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        grandchild = wait_for(folder / "grandchild") if what == GRANDCHILD else None
        if what in (HANG, HOLD_THE_GIL):
            wait_for(folder / "hanging")
        parent.kill()
    assert gone(pid)
    assert grandchild is None or gone(grandchild)


def test_ctrl_c_in_the_terminal_leaves_the_process_to_its_parent(backend: PythonBackend) -> None:
    pid = backend.pid
    assert pid is not None
    assert os.getpgid(pid) == pid != os.getpgrp()
    os.kill(pid, signal.SIGINT)
    answers(backend)
    assert backend.pid == pid
