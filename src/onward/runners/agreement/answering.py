"""The answers of each runner to the same inputs: as a user of that runner gets them, from a process of its own."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from onward.errors import ExecutionError, InputError
from onward.opening import open_pipeline
from onward.runners.agreement.comparison import Answer, as_told
from onward.runners.agreement.inputs import as_json
from onward.runners.load.server import local_server
from onward.runners.local import DEFAULT_REPOSITORY
from onward.types import Item

TOGETHER = 16
"""Requests at a time: answers must not depend on who shares a batch."""
_ANSWER_S = 120.0


def local(package: Path, items: Sequence[Item], place: Path) -> list[Answer]:
    """In this process, one after another."""
    with open_pipeline(package, check=False, repositories=[DEFAULT_REPOSITORY]) as pipeline:
        answers: list[Answer] = []
        for item in items:
            try:
                answers.append(as_told(pipeline(item)))
            except InputError as error:
                answers.append({"error": error.code})
        return answers


def serve(package: Path, items: Sequence[Item], place: Path) -> list[Answer]:
    """By a server of its own, many requests at a time."""
    bodies = [msgspec.json.encode(as_json(item)) for item in items]
    with local_server(package, place) as (port, _, name), ThreadPoolExecutor(TOGETHER) as threads:
        connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S) for _ in range(TOGETHER)]
        shares = threads.map(
            lambda which: [_posted(connections[which], name, body) for body in bodies[which::TOGETHER]],
            range(TOGETHER),
        )
        answers: list[Answer] = [{}] * len(items)
        for which, share in enumerate(shares):
            answers[which::TOGETHER] = share
        for connection in connections:
            connection.close()
    return answers


def batch(package: Path, items: Sequence[Item], place: Path) -> list[Answer]:
    """As a job from file to file."""
    return _job(package, items, place, "local")


def ray(package: Path, items: Sequence[Item], place: Path) -> list[Answer]:
    """As the same job on Ray."""
    return _job(package, items, place, "ray")


def python(package: Path, items: Sequence[Item], place: Path) -> list[Answer]:
    """By the folder for devices, in a Python that looks nowhere else."""
    from onward.runners.edge.exporting import PYTHON, export
    from onward.runners.edge.python_folder import answers_in_folder

    export(str(package), place / "edge", PYTHON, inputs=0)
    return answers_in_folder(place / "edge", items)


def web(package: Path, items: Sequence[Item], place: Path) -> list[Answer]:
    """By the folder for browsers, in one that is driven on this machine."""
    from onward.runners.edge.exporting import WEB, export
    from onward.runners.edge.web.browser import answers_in_browser

    export(str(package), place / "edge", WEB, inputs=0)
    return answers_in_browser(place / "edge", items).answers


def _job(package: Path, items: Sequence[Item], place: Path, engine: str) -> list[Answer]:
    output = place / f"out-{engine}.jsonl"
    source = place / "in.jsonl"
    source.write_bytes(b"".join(msgspec.json.encode(as_json(item)) + b"\n" for item in items))
    if engine == "ray":  # whose workers begin anywhere in the input
        source = _as_parquet(source)
    options = ["--no-decide", *(("--engine", engine) if engine != "local" else ())]
    _run(["batch", str(package), str(source), str(output), *options])
    answers: list[Answer] = [{}] * len(items)
    for line in output.read_bytes().splitlines():
        answer = msgspec.json.decode(line)
        row = answer.pop("_row")
        answers[row] = {name: value for name, value in answer.items() if value is not None}
    rejects = output.with_name(f"{output.name}_rejects.jsonl")
    if rejects.exists():
        for line in rejects.read_bytes().splitlines():
            reject = msgspec.json.decode(line)
            answers[reject["row"]] = {"error": reject["code"]}
    return answers


def _as_parquet(source: Path) -> Path:
    import pyarrow.json
    import pyarrow.parquet

    table = pyarrow.json.read_json(source)
    pyarrow.parquet.write_table(table, source.with_suffix(".parquet"), row_group_size=256)
    return source.with_suffix(".parquet")


ANSWERING: dict[str, Callable[[Path, Sequence[Item], Path], list[Answer]]] = {
    "local": local, "serve": serve, "batch": batch, "ray": ray, "python": python,
    "web": web,
}  # fmt: skip


def _posted(connection: http.client.HTTPConnection, name: str, body: bytes) -> Answer:
    connection.request("POST", f"/models/{name}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    told = msgspec.json.decode(response.read())
    if response.status >= 500:
        raise ExecutionError(f"the server answers with status {response.status}: {told}")
    found: Answer = told["answer"] if response.status == 200 else {"error": told["code"]}
    return found


def _run(argv: Sequence[str]) -> str:
    own = [sys.executable, "-P", "-m", "onward"]  # -P: no modules of the current folder
    made = subprocess.run([*own, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ExecutionError(f"onward {argv[0]} failed: {made.stderr.strip()[-1000:]}")
    return made.stdout
