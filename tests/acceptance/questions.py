"""Distinct requests of every shape, each with the answer it has to get, and connections that ask them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tests.acceptance.conftest import write_loan
from tests.packages import echo_package, lookup_package, mlp_package, padded_package, reader_package

Check = Callable[[int, dict[str, str], bytes], bool]


@dataclass(frozen=True, slots=True)
class Question:
    """A whole HTTP request, and whether an answer (status, headers, body) is the right one."""

    data: bytes
    is_right: Check


class Oracle:
    """Makes questions to the packages that it has written into a repository."""

    def __init__(self, root: Path) -> None:
        mlp = mlp_package(root / "mlp" / "1.0.0")
        padded_package(root / "padded" / "1.0.0")
        lookup_package(root / "lookup" / "1.0.0")
        reader_package(root / "reader" / "1.0.0")
        echo_package(root / "echo" / "1.0.0", {"x": "INT64"}, name="echo", shape=(3,))
        write_loan(root / "loan" / "1.2.0")
        self._mlp = ort.InferenceSession(str(mlp / "model.onnx"))

    def questions(self, numbers: Iterable[int]) -> Iterator[Question]:
        """One for each number; the same number is the same question."""
        kinds = (self._of_mlp, self._of_echo, self._of_loan, self._of_padded, self._of_lookup, self._of_reader)
        for number in numbers:
            yield kinds[number % len(kinds)](number, random.Random(number))

    def _of_mlp(self, number: int, dice: random.Random) -> Question:
        features = np.random.default_rng(number).normal(size=(dice.randint(1, 8), 30)).astype(np.float32)
        wanted = self._mlp.run(None, {"features": features})[0]

        def is_right(found: np.ndarray[Any, Any]) -> bool:
            return found.shape == wanted.shape and bool(np.allclose(found, wanted, rtol=1e-5, atol=1e-6))

        return v2("mlp", number, "features", features, "FP32", "score", is_right, binary=dice.random() < 0.5)

    def _of_echo(self, number: int, dice: random.Random) -> Question:
        values = np.array([[number, row, dice.getrandbits(62)] for row in range(dice.randint(1, 4))], np.int64)
        return v2("echo", number, "x", values, "INT64", "x_out", same(values), binary=dice.random() < 0.5)

    def _of_padded(self, number: int, dice: random.Random) -> Question:
        ids = np.random.default_rng(number).integers(-(2**40), 2**40, (dice.randint(1, 2), dice.randint(1, 40)))
        return v2("padded", number, "ids", ids, "INT64", "total", same(ids.sum(1)), binary=dice.random() < 0.5)

    def _of_lookup(self, number: int, dice: random.Random) -> Question:
        index = np.array([dice.randrange(4) for _ in range(dice.randint(1, 5))], np.int64)
        wanted = (10 + index).astype(np.float32)
        return v2("lookup", number, "index", index, "INT64", "y", same(wanted), binary=dice.random() < 0.5)

    def _of_loan(self, number: int, dice: random.Random) -> Question:
        item = {"amount": 100.0 + number % 40_000, "income": float(dice.randrange(9000)),
                "years_employed": dice.randrange(60), "purpose": "home", "customer": dice.random() < 0.5}  # fmt: skip
        raw = 400 + 0.01 * item["amount"] - 0.06 * item["income"] - 8 * item["years_employed"] + 20
        risk = min(max(raw - 60 * item["customer"], 0), 1000)

        def is_right(status: int, headers: dict[str, str], body: bytes) -> bool:
            told = json.loads(body)
            return status == 200 and told["package"] == "loan" and abs(told["answer"]["risk"] - risk) < 0.01

        return Question(post("/models/loan", json.dumps(item).encode()), is_right)

    def _of_reader(self, number: int, dice: random.Random) -> Question:
        text = f"{number} " + "ä" * dice.randrange(60)

        def is_right(status: int, headers: dict[str, str], body: bytes) -> bool:
            return status == 200 and json.loads(body)["answer"] == {"same": text}

        return Question(post("/models/reader", text.encode(), "Content-Type: text/plain; charset=utf-8"), is_right)


def same(wanted: np.ndarray[Any, Any]) -> Callable[[np.ndarray[Any, Any]], bool]:
    """Equal to the bit."""
    return lambda found: found.shape == wanted.shape and bool((found == wanted).all())


def v2(
    model: str, number: int, name: str, array: np.ndarray[Any, Any], datatype: str, output: str,
    is_right: Callable[[np.ndarray[Any, Any]], bool], *, binary: bool,
) -> Question:  # fmt: skip
    """A V2 request for a tensor, as JSON or binary both ways."""
    tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
    request: dict[str, Any] = {"id": str(number), "inputs": [tensor]}
    headers, blob = [], b""
    if binary:
        blob = array.tobytes()
        tensor["parameters"] = {"binary_data_size": len(blob)}
        request["parameters"] = {"binary_data_output": True}
    else:
        tensor["data"] = array.ravel().tolist()
    text = json.dumps(request).encode()
    if binary:
        headers = [f"Inference-Header-Content-Length: {len(text)}"]

    def check(status: int, headers: dict[str, str], body: bytes) -> bool:
        length = headers.get("inference-header-content-length")
        told = json.loads(body if length is None else body[: int(length)])
        if status != 200 or told["id"] != str(number) or told["model_name"] != model:
            return False
        (found,) = told["outputs"]
        kind = {"FP32": np.float32, "INT64": np.int64}[found["datatype"]]
        values = np.array(found["data"], kind) if length is None else np.frombuffer(body[int(length) :], kind)
        return found["name"] == output and is_right(values.reshape(found["shape"]))

    return Question(post(f"/v2/models/{model}/infer", text + blob, *headers), check)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: h", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def ask_all(port: int, questions: list[Question], seen: Counter[str], *, ahead: int = 1) -> None:
    """Ask on one connection, up to `ahead` at a time. Counts answers that are `right` and `wrong`; `cut`: a part of one
    came; `unanswered`: nothing of it did."""
    writer = None
    answered = 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = min(ahead, len(questions))
        writer.write(b"".join(question.data for question in questions[:sent]))
        for question in questions:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            seen["right" if question.is_right(int(lines[0].split()[1]), headers, body) else "wrong"] += 1
            answered += 1
            if headers.get("connection") == "close":
                break
            if sent < len(questions):
                writer.write(questions[sent].data)
                sent += 1
    except asyncio.IncompleteReadError as error:
        if error.partial:
            seen["cut"] += 1
    except OSError:
        pass
    finally:
        if writer is not None:
            writer.transport.abort()
    if answered < len(questions):
        seen["unanswered"] += len(questions) - answered
