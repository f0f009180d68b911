"""The mosec service that the bench measures. Runs in the peer's own environment; workers are spawned from here."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec
import numpy as np
from mosec import Server, Worker
from mosec.mixin import MsgpackMixin

from bench.peers.inference import Tensors, labelled, served_model

FORM = os.environ["BENCH_FORM"]
NAME = os.environ["BENCH_NAME"]
SETTING: dict[str, Any] = json.loads(os.environ["BENCH_SETTING"])
BATCHED = SETTING["max_batch"] > 1


class Tensor(msgspec.Struct):
    """A tensor of the Open Inference Protocol as JSON."""

    name: str
    shape: tuple[int, int]
    datatype: str
    data: list[float]


class Inference(msgspec.Struct):
    """A V2 inference request."""

    inputs: list[Tensor]


class Rows(Worker):
    """Rows of float32 in and out; the codec is chosen by the subclasses."""

    resp_mime_type = "application/json"

    def __init__(self) -> None:
        self.model = served_model(SETTING["threads"])
        self.decoder = msgspec.json.Decoder(Inference)

    def forward(self, data: Any) -> Any:
        """Run a batch: a list of (1, columns) matrices, or one of them where batching is off."""
        if not BATCHED:
            return self.model.matrix(data)
        results = self.model.matrix(np.concatenate(data) if len(data) > 1 else data[0])
        return [results[index : index + 1] for index in range(len(data))]

    def outcome(self, row: np.ndarray) -> dict[str, Any]:
        """A V2 answer."""
        output = {"name": "y", "shape": list(row.shape), "datatype": "FP32", "data": row[0].tolist()}
        return {"model_name": NAME, "outputs": [output]}


class JsonRows(Rows):
    """mosec's default codec: the json module."""

    def deserialize(self, data: bytes) -> np.ndarray:
        """V2 JSON to a matrix."""
        tensor = json.loads(data)["inputs"][0]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def serialize(self, data: np.ndarray) -> bytes:
        """A matrix to V2 JSON."""
        return json.dumps(self.outcome(data)).encode()


class MsgspecRows(Rows):
    """A typed msgspec codec."""

    def deserialize(self, data: bytes) -> np.ndarray:
        """V2 JSON to a matrix."""
        tensor = self.decoder.decode(data).inputs[0]
        return np.array(tensor.data, np.float32).reshape(tensor.shape)

    def serialize(self, data: np.ndarray) -> bytes:
        """A matrix to V2 JSON."""
        return msgspec.json.encode(self.outcome(data))


class RawRows(Rows):
    """Raw little-endian float32, no framing."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> np.ndarray:
        """A body to a matrix without a copy."""
        return np.frombuffer(data, np.float32).reshape(1, -1)

    def serialize(self, data: np.ndarray) -> bytes:
        """A matrix to a body."""
        return data.tobytes()


class MsgpackRows(MsgpackMixin, Rows):
    """mosec's msgpack mixin: the body is one msgpack binary value."""

    def forward(self, data: Any) -> Any:
        """As the other codecs, between binary values."""
        values = [np.frombuffer(value, np.float32).reshape(1, -1) for value in data]
        return [row.tobytes() for row in super().forward(values)]


class Items(Worker):
    """Photos or texts: prepared, run as a batch and labelled in one stage."""

    def __init__(self) -> None:
        self.model = served_model(SETTING["threads"])

    def deserialize(self, data: bytes) -> Any:
        """The body as it came: JPEG bytes, or the text of a JSON object."""
        return data if FORM == "image" else msgspec.json.decode(data)["text"]

    def prepared(self, item: Any) -> Tensors:
        """Decode or tokenise one item."""
        return self.model.decoder.image(item) if FORM == "image" else self.model.decoder.text(item)

    def forward(self, data: list[Any]) -> list[Any]:
        """Prepare and run one batch."""
        outputs = self.model.run([self.prepared(item) for item in data])
        return [labelled(self.model.ranked(one)) for one in outputs]

    def serialize(self, data: Any) -> bytes:
        """Labels as JSON."""
        return msgspec.json.encode(data)


class Prepared(Items):
    """First stage of two: prepares one item."""

    def forward(self, data: Any) -> Tensors:  # type: ignore[override]
        """Prepare one item; mosec pickles it to the next stage."""
        return self.prepared(data)


class Executed(Items):
    """Second stage of two: runs a batch of prepared items."""

    def forward(self, data: list[Tensors]) -> list[Any]:
        """Run one batch."""
        return [labelled(self.model.ranked(one)) for one in self.model.run(data)]


ROWS = {"json": JsonRows, "msgspec": MsgspecRows, "raw": RawRows, "msgpack": MsgpackRows}


def main() -> None:
    """Register the worker that the setting names, and serve."""
    server = Server()
    batch = {"max_batch_size": SETTING["max_batch"], "max_wait_time": SETTING["wait_ms"]}
    route = f"/v2/models/{NAME}/infer"
    if FORM in {"json", "binary"}:
        server.append_worker(ROWS[SETTING["codec"]], num=SETTING["workers"], route=route, **batch)
    elif SETTING["stages"] == 2:
        server.append_worker(Prepared, num=SETTING["workers"], route=route)
        server.append_worker(Executed, num=1, route=route, **batch)
    else:
        server.append_worker(Items, num=SETTING["workers"], route=route, **batch)
    server.run()


if __name__ == "__main__":
    main()
