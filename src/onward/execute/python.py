"""The escape hatch: a package's own Python source, run in a process of its own behind the `Batched` protocol.

The class named by `entry` is constructed with the package folder and answers `run(feeds) -> outputs`, both a dict of
name to array, rows first. A batch that raises fails alone; a process that crashes, is killed or hangs fails the batch
it was running and is started again for the next one, at most as often as `ProcessOptions` allows. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import onward
from onward.errors import ExecutionError, PackageError
from onward.execute.frames import (
    Answer,
    BrokenFrame,
    Disconnected,
    Failed,
    Message,
    Ready,
    Run,
    Start,
    lay_out,
    receive,
    send,
    tensors_of,
)
from onward.package.manifest import DecodeImage, Manifest, PrepareGraph, Table, Tokenize
from onward.types import DATATYPE_OF_NUMPY, Array, Field, TensorSpec

_log = logging.getLogger(__name__)
_ENTRY = re.compile(r"([A-Za-z_]\w*):([A-Za-z_]\w*)")
# `-I` keeps the caller's directory and PYTHON* variables out of the child; where Onward lies it has to be told.
_BOOT = (
    "import sys; sys.path.append(sys.argv.pop(1)); from onward.execute.worker import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How long the process may take to start, to answer one batch and to end, and how soon it is started again.

    After the n-th crash in a row (n ≥ 2) the process rests for `backoff_s`·2^(n-2), at most `max_backoff_s`; batches
    that come meanwhile fail at once. An answered batch ends the row.
    """

    start_timeout_s: float = 120.0
    run_timeout_s: float = 600.0
    stop_timeout_s: float = 2.0
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0


class PythonBackend:
    """One process that runs the class `entry` ("module:Class") of the package in `folder`.

    Raises `PackageError` when the process does not start or the class cannot be constructed.
    """

    def __init__(
        self,
        folder: Path,
        entry: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        options: ProcessOptions | None = None,
    ) -> None:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise PackageError("entry is not valid", where="execute.entry", expected="module:Class", found=repr(entry))
        self.entry = entry
        self._start = Start(folder=str(folder.resolve()), module=match[1], class_name=match[2])
        self._inputs = inputs
        self._outputs = outputs
        self._spec_of = {spec.name: spec for spec in outputs}
        self._options = options or ProcessOptions()
        self._lock = threading.Lock()
        self._closed = False
        self._crashes = 0
        self._rest_until_s = 0.0
        self._process: _Process | None = None
        try:
            self._process = _Process.start(self._start, self._options)
        except _StartError as error:
            raise PackageError(str(error), where=entry) from error

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, *, options: ProcessOptions | None = None) -> PythonBackend:
        """The backend that a manifest describes."""
        inputs, outputs = specs_of(manifest)
        return cls(folder, manifest.execute.entry, inputs, outputs, options=options)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it promises."""
        return self._outputs

    @property
    def pid(self) -> int | None:
        """The process id of the child, None while there is none."""
        return self._process.pid if self._process else None

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """One batch: the named outputs, checked against their specs. Raises `ExecutionError`."""
        for name in fetches:
            if name not in self._spec_of:
                raise ExecutionError(f"the package has no output {name!r}", where=self.entry)
        try:
            headers, pieces = lay_out(feeds)
        except ValueError as error:
            raise ExecutionError(str(error), where=self.entry) from error
        with self._lock:
            process = self._living_process()
            try:
                message, body = process.ask(Run(fetches=tuple(fetches), tensors=headers), pieces)
                if not isinstance(message, Answer | Failed):
                    raise BrokenFrame(f"a {type(message).__name__} frame")
                answer = tensors_of(message.tensors, body) if isinstance(message, Answer) else {}
            except (Disconnected, BrokenFrame, TimeoutError) as error:
                raise self._crashed(process, error) from error
            self._crashes = 0
        if isinstance(message, Failed):
            _log.error("%s raised:\n%s", self.entry, message.details)
            raise ExecutionError(message.message, where=self.entry)
        rows = len(next(iter(feeds.values()))) if feeds else None
        return [self._checked(name, answer, rows) for name in fetches]

    def close(self) -> None:
        """End the process; a batch that it is running fails. Idempotent, from any thread."""
        self._closed = True
        process, self._process = self._process, None
        if process is not None:
            process.stop(self._options.stop_timeout_s)

    def _living_process(self) -> _Process:
        """The process, started again if it has died since the last batch."""
        if self._closed:
            raise ExecutionError("the backend is closed", where=self.entry)
        process = self._process
        if process is not None and process.alive:
            return process
        if process is not None:
            self._note_crash(process)
        left_s = self._rest_until_s - time.monotonic()
        if left_s > 0:
            raise ExecutionError(
                f"the process has died {self._crashes} times in a row and is started again in {left_s:.1f} s",
                where=self.entry,
            )
        _log.warning("%s: starting the process again", self.entry)
        try:
            self._process = process = _Process.start(self._start, self._options)
        except _StartError as error:
            self._note_crash(None)
            raise ExecutionError(str(error), where=self.entry) from error
        if self._closed:  # while it started
            self.close()
            raise ExecutionError("the backend is closed", where=self.entry)
        return process

    def _crashed(self, process: _Process, error: Exception) -> ExecutionError:
        if self._closed:
            return ExecutionError("the backend was closed while it ran this batch", where=self.entry)
        if isinstance(error, TimeoutError):
            found = f"the process did not answer within {self._options.run_timeout_s:g} s and was ended"
        elif isinstance(error, BrokenFrame):
            found = "the process sent what is not an answer and was ended"
        else:
            found = f"the process died while it ran this batch ({process.how_it_ended()})"
        self._note_crash(process)
        _log.error("%s: %s (%s)", self.entry, found, error)
        return ExecutionError(found, where=self.entry)

    def _note_crash(self, process: _Process | None) -> None:
        if process is not None:
            process.stop(0.0)
        self._process = None
        self._crashes += 1
        if self._crashes > 1:
            rest_s = self._options.backoff_s * 2.0 ** min(self._crashes - 2, 30)
            self._rest_until_s = time.monotonic() + min(rest_s, self._options.max_backoff_s)

    def _checked(self, name: str, answer: Mapping[str, Array], rows: int | None) -> Array:
        spec = self._spec_of[name]
        tensor = answer.get(name)
        if tensor is None:
            raise ExecutionError(f"the model gave no output {name!r}", where=self.entry)
        expected = (rows if rows is not None else -1, *spec.shape[1:])
        datatype = DATATYPE_OF_NUMPY[tensor.dtype]
        fits = tensor.ndim == len(expected) and all(
            size in (-1, found) for size, found in zip(expected, tensor.shape, strict=True)
        )
        if datatype != spec.datatype or not fits:
            raise ExecutionError(
                f"output {name!r} of the model does not fit the manifest",
                where=self.entry,
                expected=f"{spec.datatype} {list(expected)}",
                found=f"{datatype} {list(tensor.shape)}",
            )
        return tensor


class _StartError(Exception):
    """The process did not become ready."""


class _Process:
    """A child process with its channel and the pipe that tells it when we are gone."""

    def __init__(self, popen: subprocess.Popen[bytes], channel: socket.socket, lifeline: int, timeout_s: float) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._channel = channel
        self._lifeline = lifeline
        self._timeout_s = timeout_s
        self._ending = threading.Lock()
        self._ended = False

    @classmethod
    def start(cls, start: Start, options: ProcessOptions) -> _Process:
        """A process whose model is constructed. Raises `_StartError`."""
        process = cls._spawn(options)
        try:
            send(process._channel, start, timeout_s=options.start_timeout_s)
            message, _ = receive(process._channel, timeout_s=options.start_timeout_s)
        except TimeoutError:
            process.stop(0.0)
            raise _StartError(f"the process was not ready after {options.start_timeout_s:g} s") from None
        except (Disconnected, BrokenFrame):
            how = process.how_it_ended()
            process.stop(0.0)
            raise _StartError(f"the process died while it started ({how})") from None
        if isinstance(message, Ready):
            return process
        process.stop(options.stop_timeout_s)
        if isinstance(message, Failed):
            _log.error("%s:%s could not be constructed:\n%s", start.module, start.class_name, message.details)
            raise _StartError(f"the model could not be constructed: {message.message}")
        raise _StartError("the process sent what is not an answer")

    @classmethod
    def _spawn(cls, options: ProcessOptions) -> _Process:
        ours, theirs = socket.socketpair()
        lifeline_read, lifeline_write = os.pipe()
        root = str(Path(onward.__file__).resolve().parent.parent)
        with theirs:
            try:
                popen = subprocess.Popen(
                    [sys.executable, "-I", "-u", "-c", _BOOT, root, str(theirs.fileno()), str(lifeline_read)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(), lifeline_read),
                    # A group of its own: Ctrl-C in the terminal is ours alone, and what it starts ends with it.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                os.close(lifeline_write)
                raise _StartError(f"no process could be started: {error}") from error
            finally:
                os.close(lifeline_read)
        assert popen.stdout is not None
        threading.Thread(target=_log_lines, args=(popen.stdout,), name="python-backend-log", daemon=True).start()
        return cls(popen, ours, lifeline_write, options.run_timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._ended and self._popen.poll() is None

    def ask(self, message: Run, pieces: Sequence[memoryview]) -> tuple[Message, Array]:
        """Send one frame and wait for its answer."""
        send(self._channel, message, pieces, timeout_s=self._timeout_s)
        return receive(self._channel, timeout_s=self._timeout_s)

    def how_it_ended(self) -> str:
        """The exit status in words; waits a moment, because the channel closes before the process is gone."""
        try:
            status = self._popen.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        return f"exit status {status}" if status >= 0 else f"killed by {_signal_name(-status)}"

    def stop(self, timeout_s: float) -> None:
        """Close the channel, which asks the process to end; after `timeout_s`, kill it and what it started."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)  # also wakes a thread that waits for the answer
            with contextlib.suppress(subprocess.TimeoutExpired):
                if timeout_s:
                    self._popen.wait(timeout_s)
            # The group may outlive its leader.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
            self._channel.close()
            os.close(self._lifeline)


def specs_of(manifest: Manifest) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The tensors that a python backend takes (what the prepare steps leave) and gives (`[[output]]`), by its manifest.

    Without steps these are the manifest's fields with the batch dimension in front.
    """
    inputs = {field.name: _batched(field) for field in manifest.inputs}
    for step in manifest.prepare:
        match step:
            case Table():
                columns = step.columns or tuple(inputs)
                inputs = {name: spec for name, spec in inputs.items() if name not in columns}
                inputs[step.output] = TensorSpec(name=step.output, datatype="FP32", shape=(-1, len(columns)))
            case Tokenize():
                inputs.pop(step.input, None)
                for name in step.outputs:
                    inputs[name] = TensorSpec(name=name, datatype="INT64", shape=(-1, -1))
            case DecodeImage():
                inputs.pop(step.input, None)
                inputs[step.output] = TensorSpec(name=step.output, datatype="UINT8", shape=(-1, -1, -1, 3))
            case PrepareGraph():
                raise PackageError(
                    "a python backend cannot follow a prepare graph", where="prepare", expected="host steps only"
                )
    return tuple(inputs.values()), tuple(_batched(field) for field in manifest.outputs)


def _batched(field: Field) -> TensorSpec:
    return TensorSpec(name=field.name, datatype=field.datatype, shape=(-1, *field.shape))


def _log_lines(stream: IO[bytes]) -> None:
    """What the model prints goes to the log, line by line, until its last writer is gone."""
    with stream:
        for line in stream:
            _log.info("%s", line.decode(errors="replace").rstrip())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
