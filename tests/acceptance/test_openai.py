"""The official `openai` client against a real server, unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

import onward
from onward.package.assembly import assemble
from tests.acceptance.conftest import Server, serving, write_loan

pytest.importorskip("onnx", reason="the gallery builds need the extra `pack`")

from gallery.embed import build as embed

pytestmark = pytest.mark.weights
TEXTS = [
    "A cat sleeps.",
    "One of the dogs in the park ran after a yellow ball.",
    "Rain",
    "The market fell again today.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("openai")
    embed.build(root / "embed" / "1.0.0", progress=lambda step, share: None)
    assemble(root / "embed" / "1.0.0")
    write_loan(root / "loan" / "1.2.0")
    return root


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(running: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as opened:
        yield opened


def vectors(answer: Any) -> np.ndarray[Any, Any]:
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data], np.float32)


def test_embeddings_are_those_of_the_package_in_order_as_base64_and_as_numbers(
    client: openai.OpenAI, folder: Path
) -> None:
    with onward.open(folder / "embed" / "1.0.0") as pipeline:
        wanted = np.concatenate([pipeline(text).tensors["embedding"] for text in TEXTS])
    packed = client.embeddings.create(model="embed", input=TEXTS)  # base64, by the client's own choice
    plain = client.embeddings.create(model="embed==1.0.0", input=TEXTS, encoding_format="float")
    assert np.abs(vectors(packed) - wanted).max() < 1e-5 and np.abs(vectors(plain) - wanted).max() < 1e-5
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 4 * 3
    one = client.embeddings.create(model="embed", input=TEXTS[1])
    assert np.abs(vectors(one)[0] - wanted[1]).max() < 1e-5 and one.model == "embed"


def test_fewer_dimensions_are_the_first_ones_at_length_one(client: openai.OpenAI) -> None:
    whole = vectors(client.embeddings.create(model="embed", input=TEXTS))[:, :64]
    short = vectors(client.embeddings.create(model="embed", input=TEXTS, dimensions=64))
    assert np.allclose(short, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)


def test_many_texts_come_back_in_their_order(client: openai.OpenAI) -> None:
    texts = [f"number {at} " + "word " * (at % 7) for at in range(100)]
    many = vectors(client.embeddings.create(model="embed", input=texts))
    for at in (0, 41, 99):
        assert np.abs(many[at] - vectors(client.embeddings.create(model="embed", input=texts[at]))[0]).max() < 1e-4


async def test_the_asynchronous_client_works_side_by_side(running: Server) -> None:
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none") as client:
        answers = await asyncio.gather(*(client.embeddings.create(model="embed", input=text) for text in TEXTS * 4))
    assert all(np.isclose(np.linalg.norm(answer.data[0].embedding), 1.0, atol=1e-4) for answer in answers)


def test_the_list_has_what_this_api_can_use_and_nothing_else(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embed"]
    assert client.models.retrieve("embed").owned_by == "onward"
    for name in ("loan", "nothing"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert caught.value.code == "model_not_found" or name == "loan"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, 2, 3]}, "input"), ({"input": ["a", "\ud800"]}, None), ({"dimensions": 385}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"), ({"input": ["a"] * 2049}, "input"),
        ({"model": "loan"}, "model"),
    ],
)  # fmt: skip
def test_bad_embedding_requests_are_refused_in_the_apis_form(
    client: openai.OpenAI, fields: dict[str, Any], param: str | None
) -> None:
    if param is None:  # not even JSON: the client could not write it
        url = str(client.base_url) + "embeddings"
        response = httpx.post(url, content=b'{"model": "embed", "input": ["a", "\\ud800"]}')
        assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"
        return
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**({"model": "embed", "input": "a"} | fields))
    assert caught.value.param == param and caught.value.type == "invalid_request_error"


def test_a_model_that_is_not_there_or_cannot_chat_is_refused(client: openai.OpenAI) -> None:
    ask: Any = [{"role": "user", "content": "Hello"}]
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nothing", messages=ask)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="embed", messages=ask)
    assert "/v1/embeddings" in wrong.value.message
    with pytest.raises(openai.BadRequestError) as cold:
        client.chat.completions.create(model="embed", messages=ask, temperature=-1)
    assert cold.value.param == "temperature"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/embeddings", 405), ("POST", "/v1/models", 405), ("POST", "/v1/nothing", 404), ("GET", "/v1/", 404)],
)
def test_wrong_methods_and_paths_are_told_in_the_apis_form(
    running: Server, method: str, path: str, status: int
) -> None:
    response = httpx.request(method, running.url + path)
    assert response.status_code == status and response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_deadline_that_cannot_be_kept_is_a_504_that_is_not_tried_again(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as late:
        client.embeddings.create(model="embed", input=TEXTS * 100, extra_headers={"x-onward-timeout-ms": "1"})
    assert late.value.status_code == 504 and late.value.response.headers["x-should-retry"] == "false"
    assert len(client.embeddings.create(model="embed", input=TEXTS).data) == 4


def test_a_body_that_is_not_json_or_too_large_is_refused_and_the_server_lives(running: Server) -> None:
    for body, status in ((b"{", 400), (b"[]", 400), (b'{"a":"' + b"x" * (9 << 20) + b'"}', 413)):
        response = httpx.post(running.url + "/v1/embeddings", content=body)
        assert response.status_code == status and response.json()["error"]["message"]
    assert httpx.get(running.url + "/v2/health/ready").status_code == 200
