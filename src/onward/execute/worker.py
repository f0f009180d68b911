"""The python backend's child process: constructs the package's class once and runs one batch after the other.

Started by `onward.execute.python` with two file descriptors: the channel for frames, and the lifeline, a pipe that
closes when the parent is gone. Knows nothing of packages beyond the folder and the class it is told to load. The
model's own output to stdout and stderr goes where the parent pointed them and cannot disturb the channel.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from onward.execute.frames import (
    Answer,
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
from onward.types import Array
from onward.unpickling import refuse_unpickling

_F_SETSIG = 10  # Linux; not in `fcntl`


def main(arguments: list[str]) -> int:
    """Serve one parent until it closes the channel. `arguments`: the descriptors of the channel and the lifeline."""
    channel = socket.socket(fileno=int(arguments[0]))
    die_with_parent(int(arguments[1]))
    # The terminal's Ctrl-C reaches the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model = _construct(channel)
        while model is not None:
            message, body = receive(channel)
            if isinstance(message, Run):
                _reply(channel, model, message, body)
    except Disconnected:
        return 0
    return 1


def die_with_parent(lifeline: int) -> None:
    """End this process, and those it started, as soon as the other end of the pipe `lifeline` is closed.

    The kernel's signal also ends a model that is deep inside native code and holds the GIL. (PR_SET_PDEATHSIG would
    not do: it fires when the *thread* that started us ends.) The thread covers systems without F_SETSIG.
    """
    if sys.platform == "linux":
        os.set_blocking(lifeline, True)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _construct(channel: socket.socket) -> Any:
    """The model, or None when it could not be constructed; tells the parent which."""
    message, _ = receive(channel)
    if not isinstance(message, Start):
        return None
    refuse_unpickling()  # for good: from here on it is the package's code that runs
    try:
        model = load_class(Path(message.folder), message.module, message.class_name)(Path(message.folder))
        if not callable(getattr(model, "run", None)):
            raise TypeError(f"{message.class_name} has no method run(feeds)")
    except BaseException as error:  # whatever the package's code raises, SystemExit too, is the parent's to report
        send(channel, _failure(error))
        return None
    send(channel, Ready())
    return model


def load_class(folder: Path, module: str, class_name: str) -> Any:
    """The class, from the source file `module`.py in the folder; other files there can be imported by it."""
    file = folder / f"{module}.py"
    if not file.is_file():
        raise FileNotFoundError(f"the package has no {file.name}")
    sys.path.append(str(folder))  # last: a file of the package must not shadow the standard library
    sys.dont_write_bytecode = True  # a package is immutable
    spec = importlib.util.spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is not a Python source file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    if not hasattr(loaded, class_name):
        raise AttributeError(f"{file.name} has no class {class_name}")
    return getattr(loaded, class_name)


def _reply(channel: socket.socket, model: Any, message: Run, body: Array) -> None:
    pieces: list[memoryview] = []
    answer: Message
    try:
        outputs = run_model(model, tensors_of(message.tensors, body), message.fetches)
        headers, pieces = lay_out(outputs)
        answer = Answer(tensors=headers)
    except BaseException as error:  # the process stays: one bad batch must not cost the next one a restart
        answer, pieces = _failure(error), []
    send(channel, answer, pieces)


def run_model(model: Any, feeds: dict[str, Array], fetches: tuple[str, ...]) -> dict[str, Array]:
    """The outputs asked for, as arrays. Raises what the model raises, `TypeError` or `LookupError` for a bad answer."""
    outputs = model.run(feeds)
    if not isinstance(outputs, dict):
        raise TypeError(f"run(feeds) gave a {type(outputs).__name__}, expected a dict of output name to array")
    for name in fetches:
        if name not in outputs:
            raise LookupError(f"run(feeds) gave no output {name!r}; it gave {', '.join(map(repr, outputs)) or 'none'}")
    return {name: np.asarray(outputs[name]) for name in fetches}


def _failure(error: BaseException) -> Failed:
    text = str(error)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failed(message=message, details="".join(traceback.format_exception(error)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
