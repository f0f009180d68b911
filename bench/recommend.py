"""How fast the recommender is: at its 9,066 films, in process and served, and top-k over a million synthetic items.

    python -m bench.recommend [--seconds 10] [--output bench/results/recommend.json]

Needs `python -m gallery build recommend` first. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench import machine
from bench.layout import ROOT

REPOSITORY = ROOT / "var" / "repository"
PACKAGE = REPOSITORY / "recommend" / "1.0.0"
PEOPLE = 200
LATEST = 60
CONNECTIONS = (1, 4)
START_S = 60.0

ITEMS, DIMENSIONS, BEST = 1_000_000, 64, 20
ASKED = 200
CENTRES = 2_000

Floats = NDArray[np.float32]
Rows = dict[str, Any]


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.recommend", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of load for each served figure")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    if not (PACKAGE / "onward.lock").is_file():
        parser.error("build the package first: python -m gallery build recommend")
    found: Rows = {"machine": machine.facts(), "films": {}, "million": {}}
    for name, figures in films(options.seconds):
        found["films"][name] = figures
        _print(name, figures)
    for name, figures in million():
        found["million"][name] = figures
        _print(name, figures)
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def _print(name: str, figures: Rows) -> None:
    shown = ", ".join(
        f"{key} {value:,.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )
    print(f"{name:<42} {shown}", flush=True)


def _latency(taken_s: list[float]) -> Rows:
    taken_ms = np.array(taken_s) * 1e3
    return {
        "count": len(taken_s), "p50_ms": float(np.median(taken_ms)), "p99_ms": float(np.quantile(taken_ms, 0.99)),
        "largest_ms": float(taken_ms.max()),
    }  # fmt: skip


# 9,066 films


def films(seconds: float) -> Iterator[tuple[str, Rows]]:
    """The package in process, then served with the history in the request, and with the person's profile."""
    from onward.pipeline import Pipeline

    histories = _histories()
    with Pipeline.open(PACKAGE) as pipeline:
        taken_s = []
        for at in range(2_000):
            started = time.perf_counter()
            pipeline(histories[at % PEOPLE])
            taken_s.append(time.perf_counter() - started)
    yield "in process, history given", _latency(taken_s)
    with _server() as port:
        _tell(port, histories)
        given = [json.dumps(history).encode() for history in histories]
        known = [json.dumps({"person": f"p{number}"}).encode() for number in range(PEOPLE)]
        for kind, bodies in (("history given", given), ("from the profile", known)):
            for connections in CONNECTIONS:
                yield f"served, {kind}, {connections} connection(s)", _load(port, bodies, connections, seconds)
        yield "event, then the answer that knows it", _event_then_answer(port, seconds)


def _histories() -> list[dict[str, Any]]:
    """Random histories, newest first, of the films that the catalogue has."""
    lines = (PACKAGE / "films.jsonl").read_text("utf-8").splitlines()
    numbers = [number for line in lines if (number := json.loads(line)["id"]) > 0]
    random = np.random.default_rng(3)
    return [
        {
            "history": random.choice(numbers, LATEST, replace=False).tolist(),
            "stars": random.choice(np.arange(1.0, 5.5, 0.5), LATEST).tolist(),
        }
        for _ in range(PEOPLE)
    ]


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """`onward serve` of the one package over a fresh store, ready."""
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        folder = Path(place)
        (folder / "repository" / "recommend").mkdir(parents=True)
        (folder / "repository" / "recommend" / "1.0.0").symlink_to(PACKAGE)
        port = _free_port()
        command = [sys.executable, "-m", "onward", "serve", str(folder / "repository"), "--port", str(port)]
        command += ["--admin-port", str(_free_port()), "--store", f"sqlite:///{folder / 'onward.db'}"]
        command += ["--key-file", str(folder / "keys")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(port, server, folder / "log")
            yield port
        finally:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1),
        ):
            return
        time.sleep(0.05)
    raise SystemExit(f"the server is not ready:\n{log.read_text()}")


def _tell(port: int, histories: list[dict[str, Any]]) -> None:
    """Give every person the events of their history, one a second."""
    for number, history in enumerate(histories):
        pairs = zip(history["history"], history["stars"], strict=True)
        events = [
            {"kind": "rating", "at": 1e9 - at, "data": {"movie": movie, "stars": stars}}
            for at, (movie, stars) in enumerate(pairs)
        ]
        _post(http.client.HTTPConnection("127.0.0.1", port), f"/profiles/p{number}/events", json.dumps(events).encode())


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status >= 300:
        raise SystemExit(f"{path} answered {response.status}: {answer[:300]!r}")
    return answer


def _load(port: int, bodies: list[bytes], connections: int, seconds: float) -> Rows:
    """Closed loop: each connection asks again once it has its answer. The first second does not count."""
    taken_s: list[float] = []
    counts_from, until = time.perf_counter() + 1.0, time.perf_counter() + 1.0 + seconds

    def ask(offset: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        at = offset
        while (started := time.perf_counter()) < until:
            _post(connection, "/models/recommend", bodies[at % len(bodies)])
            if started >= counts_from:
                taken_s.append(time.perf_counter() - started)
            at += connections

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    return {"per_s": len(taken_s) / seconds, **_latency(taken_s)}


def _event_then_answer(port: int, seconds: float) -> Rows:
    """An event is written durably, and the next answer leaves its film out: both together, and how often it held."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    taken_s, held = [], 0
    until = time.perf_counter() + seconds
    ask = json.dumps({"person": "newcomer"}).encode()
    first = json.loads(_post(connection, "/models/recommend", ask))["answer"]["recommendations"][0]["id"]
    while time.perf_counter() < until and len(taken_s) < 500:
        event = json.dumps({"kind": "rating", "data": {"movie": first, "stars": 4.5}}).encode()
        started = time.perf_counter()
        _post(connection, "/profiles/newcomer/events", event)
        answer = _post(connection, "/models/recommend", ask)
        taken_s.append(time.perf_counter() - started)
        ids = [film["id"] for film in json.loads(answer)["answer"]["recommendations"]]
        held += first not in ids
        first = ids[0]
    return {"changed_the_next_answer": held / len(taken_s), **_latency(taken_s)}


# A million items


def million() -> Iterator[tuple[str, Rows]]:
    """Top 20 of a million vectors for one person: exactly, and in two stages through int8."""
    items, people = _synthetic()
    wanted = [np.argsort(-(items @ person), kind="stable")[:BEST] for person in people]
    nodes, constants = _exact(items)
    for threads in (1, 2):
        yield f"exact, FP32, {threads} thread(s)", _top(nodes, constants, people, wanted, threads)
    for candidates in (200, 1_000):
        nodes, constants = _two_stage(items, candidates)
        for threads in (1, 2):
            name = f"int8, then {candidates:,} in FP32, {threads} thread(s)"
            yield name, _top(nodes, constants, people, wanted, threads)


def _synthetic() -> tuple[Floats, Floats]:
    """Items [n, 64] around 2,000 centres, of log-normal lengths as popularity makes them; people from 30 items each."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CENTRES, DIMENSIONS)).astype(np.float32)
    items = centres[random.integers(0, CENTRES, ITEMS)]
    items += 0.7 * random.standard_normal((ITEMS, DIMENSIONS), np.float32)
    lengths = random.lognormal(-1.0, 0.5, (ITEMS, 1)).astype(np.float32)
    items *= lengths / np.linalg.norm(items, axis=1, keepdims=True)
    people = np.stack([items[random.integers(0, ITEMS, 30)].sum(axis=0) for _ in range(ASKED)])
    return items, people


def _exact(items: Floats) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """One product with every item, then the best."""
    nodes = [
        helper.make_node("Gemm", ["person", "items"], ["scores"], transB=1),
        helper.make_node("TopK", ["scores", "best"], ["values", "places"]),
    ]
    return nodes, {"items": items, "best": np.array([BEST])}


def _two_stage(items: Floats, candidates: int) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """A product of 8-bit integers finds candidates; of those the FP32 product is exact."""
    scale = float(np.quantile(np.abs(items[:100_000]), 0.9999)) / 127
    rounded = np.clip(np.round(items / scale), -127, 127).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["person"], ["bytes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["bytes", "rounded", "zero"], ["rough"]),
        helper.make_node("TopK", ["rough", "candidates"], ["rough_values", "found"]),
        helper.make_node("Squeeze", ["found", "first"], ["rows"]),
        helper.make_node("Gather", ["items", "rows"], ["kept"]),
        helper.make_node("Gemm", ["person", "kept"], ["scores"], transB=1),
        helper.make_node("TopK", ["scores", "best"], ["values", "chosen"]),
        helper.make_node("GatherElements", ["found", "chosen"], ["places"], axis=1),
    ]
    constants = {
        "items": items, "rounded": np.ascontiguousarray(rounded.T), "candidates": np.array([candidates]),
        "best": np.array([BEST]), "first": np.array([0]),
    }  # fmt: skip
    return nodes, constants


def _top(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], people: Floats, wanted: list[Any], threads: int
) -> Rows:
    ask = _session(nodes, constants, threads)
    taken_s, recalls = [], []
    for place, person in enumerate(people):
        started = time.perf_counter()
        found = ask(person[None])
        if place >= 10:
            taken_s.append(time.perf_counter() - started)
        recalls.append(len(set(found.tolist()) & set(wanted[place].tolist())) / BEST)
    return {"recall": float(np.mean(recalls)), **_latency(taken_s)}


def _session(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], threads: int
) -> Callable[[Floats], NDArray[np.int64]]:
    graph = helper.make_graph(
        nodes,
        "top",
        [helper.make_tensor_value_info("person", TensorProto.FLOAT, [1, DIMENSIONS])],
        [helper.make_tensor_value_info("places", TensorProto.INT64, [1, BEST])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda person: session.run(["places"], {"person": person})[0][0]


if __name__ == "__main__":
    main()
