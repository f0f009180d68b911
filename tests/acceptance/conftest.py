"""A real server process over a repository of small, real packages."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onward.package.assembly import assemble
from onward.package.examples import Example, write_examples
from tests import packages
from tests.acceptance import sandbox
from tests.postgres import postgres, postgres_url  # noqa: F401

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0

LOAN = """format = 1
[package]
name = "loan"
version = "1.2.0"
task = "tabular-classification"
licence = "Apache-2.0"
description = "Says whether a loan should be approved, looked at by a person, or declined."
[[input]]
name = "amount"
datatype = "FP32"
units = "EUR"
minimum = 100.0
maximum = 50000.0
description = "How much is asked for."
[[input]]
name = "income"
datatype = "FP32"
units = "EUR a month"
minimum = 0.0
description = "Income after tax."
[[input]]
name = "years_employed"
datatype = "INT32"
units = "years"
minimum = 0
maximum = 60
default = 2
[[input]]
name = "purpose"
datatype = "BYTES"
categories = ["car", "home", "other"]
[[input]]
name = "customer"
datatype = "BOOL"
description = "Whether there is an account already."
[[output]]
name = "probabilities"
datatype = "FP32"
shape = [3]
[[output]]
name = "risk"
datatype = "FP32"
units = "points"
description = "Risk, 0 to 1000."
[[output]]
name = "contributions"
datatype = "FP32"
shape = [5]
on_request = true
description = "What each field adds to the risk."
[[prepare]]
step = "table"
output = "features"
[execute]
backend = "onnx"
file = "model.onnx"
[[generate]]
step = "labels"
scores = "probabilities"
file = "labels.txt"
top_k = 3
[[generate]]
step = "named"
input = "contributions"
names = ["amount", "income", "years_employed", "purpose", "customer"]
"""

SHADE = """format = 1
[package]
name = "shade"
version = "1.0.0"
task = "image-classification"
licence = "Apache-2.0"
description = "Names the colour that a picture mostly has."
[[input]]
name = "image"
datatype = "BYTES"
content = "image"
description = "A picture: JPEG, PNG, WebP or GIF."
[[output]]
name = "scores"
datatype = "FP32"
shape = [3]
[[prepare]]
step = "decode_image"
input = "image"
output = "pixels"
[[prepare]]
step = "graph"
file = "prepare.onnx"
[execute]
backend = "onnx"
file = "model.onnx"
[[generate]]
step = "labels"
scores = "scores"
file = "labels.txt"
top_k = 3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: where it listens and what it has logged."""

    url: str
    admin_url: str
    port: int
    log_file: Path
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text("utf-8")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a table package, `loan`, and an image package, `shade`."""
    root = tmp_path_factory.mktemp("repository")
    write_loan(root / "loan" / "1.2.0")
    write_shade(root / "shade" / "1.0.0")
    return root


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """`onward serve` over the repository, in a process of its own; SIGTERM must end it with exit code 0."""
    with serving(repository) as running:
        yield running


@pytest.fixture(scope="session")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of small tensor packages: an echo of each datatype and of all of them, and those of tests.packages."""
    root = tmp_path_factory.mktemp("tensors")
    for kind in packages.DATATYPES:
        name = f"echo-{kind.lower()}"
        packages.echo_package(root / name / "1.0.0", {"x": kind}, name=name)
    everything = {f"x_{kind.lower()}": kind for kind in packages.DATATYPES}
    packages.echo_package(root / "echo" / "1.0.0", everything, name="echo", shape=(2, 2))
    packages.mlp_package(root / "mlp" / "1.0.0")
    packages.padded_package(root / "padded" / "1.0.0")
    packages.lookup_package(root / "lookup" / "1.0.0")
    packages.reader_package(root / "reader" / "1.0.0")
    with serving(root) as running:
        yield running


@pytest.fixture(scope="session")
def sandboxed() -> None:
    """Skips where there is no bubblewrap and none can be had."""
    sandbox.needed()


@contextlib.contextmanager
def serving(
    repository: Path | str, *options: str, ready: bool = True, environment: Mapping[str, str] | None = None,
    files: int = 0,
) -> Iterator[Server]:  # fmt: skip
    """`onward serve` in a process of its own, ready; at the end SIGTERM, which must end it with exit code 0."""
    running = start(repository, *options, environment=environment, files=files)
    try:
        if ready:
            wait_until_ready(running)
        yield running
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(STOP_TIMEOUT_S) == 0, running.log()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        running.log_file.unlink(missing_ok=True)


def start(
    repository: Path | str, *options: str, environment: Mapping[str, str] | None = None, files: int = 0
) -> Server:
    """Start the server's process; it may not be ready yet. `environment` comes on top of this process's own.

    It may hold `files` open files, if that is not 0.
    """
    port, admin_port = free_port(), free_port()
    command = [sys.executable, "-m", "onward", "serve", str(repository), *options]
    command += ["--port", str(port), "--admin-port", str(admin_port)]
    if files:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    handle, name = tempfile.mkstemp(prefix="onward-serve-", suffix=".log")
    with os.fdopen(handle, "wb") as log:
        own = os.environ | (environment or {})
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=own)
    url, admin_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    return Server(url=url, admin_url=admin_url, port=port, log_file=Path(name), process=process)


def wait_until_ready(running: Server) -> None:
    """Wait for /v2/health/ready; a server that ends instead fails with its log."""
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_s:
        assert running.process.poll() is None, f"the server ended with {running.process.returncode}:\n{running.log()}"
        try:
            with urllib.request.urlopen(f"{running.url}/v2/health/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    pytest.fail(f"not ready within {START_TIMEOUT_S} s:\n{running.log()}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def png(colour: tuple[int, int, int], size: tuple[int, int] = (48, 32)) -> bytes:
    """A PNG that shades from one colour a little towards white."""
    ramp = np.linspace(0.0, 0.5, size[0])[None, :, None]  # (1, width, 1)
    pixels = np.broadcast_to(np.array(colour) * (1 - ramp) + 255 * ramp, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_loan(folder: Path, *, labels: str = "approve\nreview\ndecline\n") -> None:
    """A logistic regression over five fields of different kinds, with its contributions on request."""
    weights = np.array([[0.01], [-0.06], [-8.0], [20.0], [-60.0]], np.float32)  # (fields, 1)
    # Class scores as lines over the risk: low → approve, middle → review, high → decline.
    slopes, offsets = np.array([[-0.02, 0.0, 0.02]], np.float32), np.array([5.0, 0.0, -11.0], np.float32)
    nodes = [
        helper.make_node("Mul", ["features", "weights"], ["contributions"]),
        helper.make_node("ReduceSum", ["contributions", "last"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "base"], ["raw"]),
        helper.make_node("Clip", ["raw", "low", "high"], ["clipped"]),
        helper.make_node("Gemm", ["clipped", "slopes", "offsets"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Squeeze", ["clipped", "last"], ["risk"]),
    ]
    constants = {
        "weights": weights.T, "last": np.array([1], np.int64), "base": np.array([400.0], np.float32),
        "low": np.array(0.0, np.float32), "high": np.array(1000.0, np.float32), "slopes": slopes, "offsets": offsets,
    }  # fmt: skip
    inputs = [tensor("features", TensorProto.FLOAT, ["n", 5])]
    outputs = [
        tensor("probabilities", TensorProto.FLOAT, ["n", 3]), tensor("risk", TensorProto.FLOAT, ["n"]),
        tensor("contributions", TensorProto.FLOAT, ["n", 5]),
    ]  # fmt: skip
    item = {"amount": 9000.0, "income": 3200.0, "years_employed": 6, "purpose": "car", "customer": True}
    answer = {"label": labels.split("\n")[0], "risk": 190.0}
    example = Example(name="a steady customer", input=item, answer=answer)
    write_package(folder, LOAN, {"model.onnx": model(nodes, inputs, outputs, constants)},
                  labels=labels, examples=[example])  # fmt: skip


def write_shade(folder: Path) -> None:
    """Mean colour → softmax over red, green, blue."""
    prepare = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "plane"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "first"], ["colour"]),
    ]
    constants = {"plane": np.array([0, 1], np.int64), "first": np.array([0], np.int64)}
    inputs = [tensor("pixels", TensorProto.UINT8, ["height", "width", 3])]
    outputs = [tensor("colour", TensorProto.FLOAT, [1, 3])]
    nodes = [
        helper.make_node("Mul", ["colour", "gain"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graphs = {
        "prepare.onnx": model(prepare, inputs, outputs, constants),
        "model.onnx": model(
            nodes, [tensor("colour", TensorProto.FLOAT, ["n", 3])], [tensor("scores", TensorProto.FLOAT, ["n", 3])],
            {"gain": np.array([0.03], np.float32)},
        ),
    }  # fmt: skip
    example = Example(name="a blue sea", input={"image": png((20, 70, 210), (480, 320))}, answer={"label": "blue"})
    write_package(folder, SHADE, graphs, labels="red\ngreen\nblue\n", examples=[example])


def write_package(
    folder: Path, manifest: str, graphs: dict[str, onnx.ModelProto], *, labels: str, examples: list[Example]
) -> None:
    """Write a package's files and assemble it."""
    folder.mkdir(parents=True)
    (folder / "onward.toml").write_text(manifest, "utf-8")
    (folder / "labels.txt").write_text(labels, "utf-8")
    for name, graph in graphs.items():
        onnx.save(graph, str(folder / name))
    write_examples(folder, examples)
    assemble(folder)


def tensor(name: str, datatype: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    """A graph's input or output."""
    return helper.make_tensor_value_info(name, datatype, shape)


def model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray[Any, Any]]
) -> onnx.ModelProto:
    """A checked ONNX model."""
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(made)
    return made
