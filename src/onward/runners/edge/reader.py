"""Answers on this device, with no server: python run.py INPUT…, or `from run import open`.

An INPUT is a JSON object with a value for each input (files as base64), the name of a file, a text, or - for lines of
JSON on standard input. One line of JSON is written for each. `--check` runs the golden examples and tells how long the
start took and how much memory is used.
"""

from __future__ import annotations

import time

_STARTED_S = time.perf_counter()  # before the imports: they are most of a start

import base64  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, TextIO  # noqa: E402

from onward.errors import InputError, OnwardError  # noqa: E402
from onward.package.digest import verify_folder  # noqa: E402
from onward.package.trust import read_trusted_lock  # noqa: E402

PACKAGE = Path(__file__).parent / "package"


class _Verification(threading.Thread):
    """The package's files compared with its lock, while the libraries are imported: that is as long as it takes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            verify_folder(PACKAGE, read_trusted_lock(PACKAGE))
        except Exception as error:
            self._error = error

    def end(self) -> None:
        """Wait for it; raises what is wrong with the package."""
        self.join()
        if self._error is not None:
            raise self._error


_verification = _Verification()  # also where this is imported: to open it

import msgspec  # noqa: E402

from onward.generate.answer import readable  # noqa: E402
from onward.package.examples import check_example, read_examples  # noqa: E402
from onward.package.package import open_package  # noqa: E402
from onward.pipeline import Pipeline  # noqa: E402


def open() -> Pipeline:
    """Open the package: call what is returned with an input, or its `batch` with several.

    Its graphs were checked when it was exported; its files are what they were then, or `DigestMismatch` is raised.
    """
    _verification.end()
    return Pipeline(open_package(PACKAGE, verify=False), decide=False)


def main(arguments: list[str]) -> int:
    """Answer the arguments; the exit code says whether all could be answered."""
    if not arguments:
        sys.stderr.write(f"{(__doc__ or '').strip()}\n")
        return 64
    try:
        with open() as pipeline:
            if arguments == ["--check"]:
                _say(_checked(pipeline))
                return 0
            if arguments == ["-"]:
                return max([0, *(_answer(pipeline, line, sys.stdout) for line in sys.stdin if line.strip())])
            return max(_answer(pipeline, argument, sys.stderr) for argument in arguments)
    except OnwardError as error:
        sys.stderr.write(f"error: {error} [{error.code}]\n")
        return error.exit_code


def _answer(pipeline: Pipeline, argument: str, errors: TextIO) -> int:
    """Say the answer to one input, or what is wrong with it, as a line of JSON."""
    try:
        _say(readable(pipeline(_input(argument, pipeline))))
    except InputError as error:
        errors.write(json.dumps({"error": error.code, "message": str(error)}, ensure_ascii=False) + "\n")
        return error.exit_code
    return 0


def _say(answer: Any) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")  # a number that is none becomes null


def _input(argument: str, pipeline: Pipeline) -> Any:
    files = [field.name for field in pipeline.manifest.inputs if field.content in ("image", "audio")]
    if argument[:1] == "{":
        return _of_json(argument, files)
    try:
        if files:
            return {files[0]: Path(argument).read_bytes()}
        if Path(argument).is_file():
            text = Path(argument).read_text("utf-8")
            return _of_json(text, files) if argument.endswith(".json") else text
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=argument[:80]) from None
    return argument


def _of_json(text: str, files: list[str]) -> Any:
    try:
        item = json.loads(text)
        return item | {name: base64.b64decode(item[name], validate=True) for name in files if name in item}
    except (ValueError, TypeError) as error:
        raise InputError(f"not understood: {error}", expected="a JSON object, files in it as base64") from None


def _checked(pipeline: Pipeline) -> dict[str, Any]:
    first_ms = 0.0
    examples = 0
    for example in read_examples(pipeline.package.folder):
        check_example(example, pipeline(example.input))
        examples += 1
        first_ms = first_ms or (time.perf_counter() - _STARTED_S) * 1e3
    return {"examples": examples, "first_answer_ms": round(first_ms, 1), "memory_bytes": _memory_bytes()}


def _memory_bytes() -> int:
    """The most memory that this process has held, where the system tells."""
    try:  # what Linux tells of a process; `resource` tells of the one that started it, where that was larger
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
