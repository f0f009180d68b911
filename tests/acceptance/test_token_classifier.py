"""A token classifier of a Hugging Face folder: the same entities from Python, a server under load, and a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

import onward
from onward.package.pack import pack
from onward.runners.local import run_package
from tests.acceptance.conftest import Server, serving
from tests.unit.package.importers.families import WORDS, Family

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def texts(count: int = 120) -> list[str]:
    """Texts of 1 to 17 words, in the order of their words' chance."""
    random = np.random.default_rng(4)
    return [" ".join(random.choice(WORDS[4:14], size=1 + row % 17)) for row in range(count)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    model = Family("roberta", task="Token", labels=5, id2label=dict(enumerate(BIO)))
    model.weights["classifier.weight"] *= 2
    pack(model.write(root / "model"), root / "repository" / "ner" / "1.0.0", name="ner", run_package=run_package)
    return root / "repository" / "ner" / "1.0.0"


@pytest.fixture(scope="module")
def expected(package: Path) -> list[list[dict[str, Any]]]:
    """The entities of each text, found alone."""
    with onward.open(package) as opened:
        found = [opened(text).answer["entities"] for text in texts()]
    assert len({tuple(entity["label"] for entity in entities) for entities in found}) > 3  # the test can fail
    return found


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[Server]:
    with serving(package.parents[1]) as running:
        yield running


def places(entities: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(each["label"], each["start"], each["end"], each["text"]) for each in entities]


def test_texts_of_all_lengths_at_once_each_get_their_own_entities(
    server: Server, expected: list[list[dict[str, Any]]]
) -> None:
    with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: client.post("/models/ner", json={"text": text}).json()["answer"], texts()))
        many = client.post("/models/ner", json=[{"text": text} for text in texts()]).json()["answers"]
    for one, other, wanted in zip(answers, many, expected, strict=True):
        assert places(one["entities"]) == places(other["entities"]) == places(wanted)
        assert [each["score"] for each in one["entities"]] == pytest.approx([e["score"] for e in wanted], abs=1e-5)


def test_v2_clients_send_the_text_and_get_the_tokens_probabilities(server: Server, package: Path) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        given = triton.InferInput("text", [1], "BYTES").set_data_from_numpy(np.array([texts()[5]], dtype=object))
        found = client.infer("ner", [given]).as_numpy("probabilities")
    with onward.open(package) as opened:
        wanted = opened(texts()[5], outputs=["probabilities"]).answer["probabilities"]
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)


def test_v2_tensors_are_as_long_as_their_request_whoever_shares_the_batch(server: Server) -> None:
    counts = [1 + index % 17 for index in range(160)]
    url = server.url.removeprefix("http://")
    with triton.InferenceServerClient(url, concurrency=16) as client:

        def ask(count: int) -> Any:
            """Ask about so many tokens, with binary tensors or without."""
            ids = np.arange(count, dtype=np.int64)[None] % 10 + 4
            given = [triton.InferInput(name, [1, count], "INT64") for name in ("input_ids", "attention_mask")]
            given[0].set_data_from_numpy(ids, binary_data=count % 2 == 0)
            given[1].set_data_from_numpy(np.ones_like(ids), binary_data=count % 2 == 0)
            asked = [triton.InferRequestedOutput("probabilities", binary_data=count % 2 == 0)]
            return client.async_infer("ner", given, outputs=asked)

        alone = {count: ask(count).get_result().as_numpy("probabilities") for count in set(counts)}
        found = [one.get_result().as_numpy("probabilities") for one in [ask(count) for count in counts]]
    for count, tensor in zip(counts, found, strict=True):
        assert tensor.shape == (1, count, 5)
        np.testing.assert_allclose(tensor, alone[count], atol=1e-5)


def test_the_api_page_describes_entities(server: Server) -> None:
    described = json.dumps(httpx.get(f"{server.url}/openapi.json").json())
    assert '"entities": {"type": "array"' in described


def test_a_file_of_texts_gets_the_same_entities(
    package: Path, expected: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()), "utf-8")
    command = [sys.executable, "-m", "onward", "batch", str(package), "in.jsonl", "out.jsonl"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [places(row["entities"]) for row in rows] == [places(wanted) for wanted in expected]


def test_a_browser_is_refused_the_step_that_it_has_not_got(package: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onward", "edge", str(package), str(tmp_path / "web"), "--target", "web"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "NOT_FOR_EDGE" in made.stderr and "entities" in made.stderr
    assert not (tmp_path / "web").exists()
