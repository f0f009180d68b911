"""How words sound: eSpeak NG by way of piper-tts, in a process of its own, since both are under the GPL.

Run as a program, it reads one JSON line for each text, `{"voice", "text"}`, and writes one back: `{"phonemes"}`, a list
for each sentence, or `{"error"}`. It ends with whoever started it. Needs the extra `phonemes`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import onward
from onward.errors import ExecutionError, MissingExtra

TIMEOUT_S = 10.0
_START_S = 60.0
_MISSING = "missing"
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from onward.execute.phonemes import main; main()"


class Phonemiser:
    """The process, started when it is first asked and again when it has died; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """Of the process; 0 where none runs."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the process, if it does not run. Raises `MissingExtra` without eSpeak."""
        with self._lock:
            self._running()

    def phonemes(self, voice: str, text: str) -> list[list[str]]:
        """The phonemes of each sentence. A process that dies is tried once more. Raises `ExecutionError`."""
        line = json.dumps({"voice": voice, "text": text.replace("\n", " ")}).encode() + b"\n"
        with self._lock:
            for attempt in range(2):
                try:
                    answer = self._asked(self._running(), line, TIMEOUT_S)
                    break
                except (OSError, ValueError, TimeoutError) as error:
                    self._end()
                    if attempt:
                        raise ExecutionError(f"the process of phonemes failed: {error}") from None
        if "error" in answer:
            raise ExecutionError(f"these words cannot be brought to sounds: {answer['error']}")
        found: list[list[str]] = answer["phonemes"]
        return found

    def close(self) -> None:
        """End the process; idempotent."""
        with self._lock:
            self._closed = True
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise ExecutionError("the process of phonemes has been closed")
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        place = str(Path(onward.__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={"PATH": os.environ.get("PATH", "")},
        )  # fmt: skip
        try:
            ready = self._asked(self._process, b"", _START_S)
        except (OSError, ValueError, TimeoutError) as error:
            self._end()
            raise ExecutionError(f"the process of phonemes does not start: {error}") from None
        if ready.get("error") == _MISSING:
            self._end()
            raise MissingExtra("a voice needs eSpeak NG (GPL-3.0)", expected="pip install 'onward[phonemes]'")
        return self._process

    def _asked(self, process: subprocess.Popen[bytes], line: bytes, within_s: float) -> dict[str, Any]:
        """Send a line and read one. Raises `TimeoutError`, `OSError` or `ValueError`."""
        assert process.stdin is not None and process.stdout is not None
        if line:
            process.stdin.write(line)
            process.stdin.flush()
        until_s = time.monotonic() + within_s
        answer = b""
        while not answer.endswith(b"\n"):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
                raise TimeoutError(f"no answer within {within_s:g} s")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                raise OSError("it has ended")
            answer += piece
        told = json.loads(answer)
        if not isinstance(told, dict):
            raise ValueError("it answers something else")
        return told

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was written last has not been read
                    pipe.close()
        process.wait()


def main() -> None:
    """The program."""
    try:
        from piper.phonemize_espeak import EspeakPhonemizer
    except ImportError:
        _tell({"error": _MISSING})
        return
    phonemiser = EspeakPhonemizer()
    _tell({"ready": True})
    for line in sys.stdin.buffer:
        try:
            asked = json.loads(line)
            _tell({"phonemes": phonemiser.phonemize(asked["voice"], asked["text"])})
        except Exception as error:  # told, and the next text is another matter
            _tell({"error": f"{type(error).__name__}: {error}"})


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()
