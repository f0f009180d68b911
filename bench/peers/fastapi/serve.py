"""The FastAPI application that the bench measures. Runs in the peer's own environment under uvicorn."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from bench.peers.inference import Tensors, labelled, served_model

FORM = os.environ["BENCH_FORM"]
DECODE = os.environ["BENCH_DECODE"]
NAME = os.environ["BENCH_NAME"]
PATH = f"/v2/models/{NAME}/infer"

model = served_model(int(os.environ["BENCH_THREADS"]))
application = FastAPI()


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol as JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(BaseModel):
    """A V2 inference request."""

    inputs: list[Tensor]


class FastTensor(msgspec.Struct):
    """The same for msgspec."""

    name: str
    shape: tuple[int, int]
    datatype: str
    data: list[float]


class FastInference(msgspec.Struct):
    """The same for msgspec."""

    inputs: list[FastTensor]


typed = msgspec.json.Decoder(FastInference)


def answer(rows: np.ndarray) -> dict[str, Any]:
    """Run the model and put its output into a V2 answer."""
    results = model.matrix(rows)
    output = {"name": model.output_name, "shape": list(results.shape), "datatype": "FP32"}
    return {"model_name": NAME, "outputs": [output | {"data": results.ravel().tolist()}]}


@application.get("/ready")
def ready() -> dict[str, bool]:
    """Answers once the module is imported, and so the model open."""
    return {"ready": True}


def pydantic_endpoint(request: Inference) -> dict[str, Any]:
    """The textbook way."""
    tensor = request.inputs[0]
    return answer(np.array(tensor.data, np.float32).reshape(tensor.shape))


async def orjson_endpoint(request: Request) -> Response:
    """Decode and encode with orjson, on the event loop."""
    tensor = orjson.loads(await request.body())["inputs"][0]
    rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    return Response(orjson.dumps(answer(rows)), media_type="application/json")


async def msgspec_endpoint(request: Request) -> Response:
    """Decode with a typed msgspec decoder, on the event loop."""
    tensor = typed.decode(await request.body()).inputs[0]
    rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
    return Response(msgspec.json.encode(answer(rows)), media_type="application/json")


def answered(body: bytes) -> Response:
    """Answer a raw float32 row with raw float32; a photo or a text with labels."""
    if FORM == "binary":
        rows = np.frombuffer(body, np.float32).reshape(1, -1)
        return Response(model.matrix(rows).tobytes(), media_type="application/octet-stream")
    decoder = model.decoder
    item: Tensors = decoder.image(body) if FORM == "image" else decoder.text(msgspec.json.decode(body)["text"])
    outcome = labelled(model.ranked(model.run([item])[0]))
    return Response(msgspec.json.encode(outcome), media_type="application/json")


async def async_endpoint(request: Request) -> Response:
    """Everything on the event loop."""
    return answered(await request.body())


async def thread_endpoint(request: Request) -> Response:
    """The work on the thread pool, so that two requests can run at once."""
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(answered, await request.body())


endpoints = {
    "pydantic": pydantic_endpoint,
    "orjson": orjson_endpoint,
    "msgspec": msgspec_endpoint,
    "async": async_endpoint,
    "thread": thread_endpoint,
}
application.post(PATH, response_model=None)(endpoints[DECODE])
