"""What tritonclient asks of a server besides inference: the repository on the admin port, and the statistics."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from onward.testing import tiny_package
from tests.acceptance.conftest import Server, serving
from tests.packages import staged_packages


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    tiny_package(tmp_path / "repository" / "other" / "1.0.0", name="other")
    return tmp_path / "repository"


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with serving(root, "--watch-interval", "0.1") as running:
        yield running


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of what nobody changes."""
    root = tmp_path_factory.mktemp("repository")
    tiny_package(root / "tiny" / "1.0.0")
    tiny_package(root / "other" / "1.0.0", name="other")
    with serving(root) as running:
        yield running


@pytest.fixture
def admin(server: Server) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.admin_url.removeprefix("http://"))
    yield client
    client.close()


def ask(server: Server, name: str, rows: int = 1, version: str = "") -> Any:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    tensor = triton.InferInput("x", [rows, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((rows, 3), np.float32))
    try:
        return client.infer(name, [tensor], model_version=version).as_numpy("y")
    finally:
        client.close()


def index(admin: Any) -> list[tuple[str, str, str]]:
    return [(one["name"], one["version"], one["state"]) for one in admin.get_model_repository_index()]


def test_the_index_says_what_can_be_used_and_why_the_rest_cannot(server: Server, admin: Any, root: Path) -> None:
    assert index(admin) == [("other", "1.0.0", "READY"), ("tiny", "1.0.0", "READY")]
    broken = tiny_package(root / "broken" / "1.0.0", name="broken")
    (broken / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(InferenceServerException, match="DIGEST_MISMATCH"):
        admin.load_model("broken")
    told = admin.get_model_repository_index()
    assert [one["name"] for one in told] == ["broken", "other", "tiny"]
    assert told[0]["state"] == "UNAVAILABLE" and "DIGEST_MISMATCH" in told[0]["reason"]
    ready = httpx.post(server.admin_url + "/v2/repository/index", json={"ready": True}).json()
    assert [one["name"] for one in ready] == ["other", "tiny"]


def test_a_model_that_was_unloaded_stays_so_until_it_is_loaded(server: Server, admin: Any, root: Path) -> None:
    assert ask(server, "tiny").tolist() == [[3, 3, 3]]
    admin.unload_model("tiny")
    with pytest.raises(InferenceServerException, match="no such model"):
        ask(server, "tiny")
    tiny_package(root / "tiny" / "1.1.0", version="1.1.0", scale=4.0)
    assert httpx.get(server.url + "/v2/health/ready").status_code == 200
    shutil.rmtree(root / "other")  # the repository is looked through meanwhile
    while ("other", "1.0.0", "READY") in index(admin):
        pass
    assert index(admin) == [("tiny", "", "UNAVAILABLE")]
    admin.load_model("tiny")
    assert index(admin) == [("tiny", "1.1.0", "READY")]
    assert ask(server, "tiny").tolist() == [[5, 5, 5]]


def test_loading_finds_a_new_version_at_once_and_a_bad_one_leaves_the_old(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--watch-interval", "0") as server:
        admin = triton.InferenceServerClient(server.admin_url.removeprefix("http://"))
        tiny_package(tmp_path / "tiny" / "2.0.0", version="2.0.0", scale=4.0)
        assert ask(server, "tiny").tolist() == [[3, 3, 3]]
        admin.load_model("tiny")
        assert ask(server, "tiny").tolist() == [[5, 5, 5]]
        (tiny_package(tmp_path / "tiny" / "3.0.0", version="3.0.0") / "model.onnx").write_bytes(b"nonsense")
        with pytest.raises(InferenceServerException, match=r"tiny 3\.0\.0 did not load"):
            admin.load_model("tiny")
        assert ask(server, "tiny").tolist() == [[5, 5, 5]]
        admin.close()


def test_what_cannot_be_done_is_told(calm: Server) -> None:
    admin = triton.InferenceServerClient(calm.admin_url.removeprefix("http://"))
    for call in (admin.load_model, admin.unload_model):
        with pytest.raises(InferenceServerException, match="no such model") as caught:
            call("nobody")
        assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="as it lies in the repository") as caught:
        admin.load_model("tiny", config="{}")
    assert caught.value.status() == "400"
    for path in ("/v2/repository/index", "/v2/repository/models/tiny/unload"):  # not for everybody
        assert httpx.post(calm.url + path).status_code == 404
    admin.close()


def test_a_page_of_another_origin_cannot_unload_a_model(calm: Server) -> None:
    path = calm.admin_url + "/v2/repository/models/other/unload"
    for kind in ({}, {"content-type": "text/plain"}):
        answer = httpx.post(path, content=b"{}", headers={"origin": "http://evil.example"} | kind)
        assert answer.status_code == 415
    assert httpx.post(path, headers={"host": "evil.example"}).status_code == 400
    assert ask(calm, "other").tolist() == [[3, 3, 3]]
    for verb in ("unload", "load"):
        told = httpx.post(path.replace("unload", verb), json={}, headers={"origin": "http://localhost:1"})
        assert told.status_code == 200


def test_a_model_that_others_are_made_of_is_unloaded_with_them_or_not_at_all(tmp_path: Path) -> None:
    staged_packages(tmp_path)
    with serving(tmp_path) as server:
        admin = triton.InferenceServerClient(server.admin_url.removeprefix("http://"))
        before = index(admin)
        with pytest.raises(InferenceServerException, match="needs this model") as caught:
            admin.unload_model("double")
        assert caught.value.status() == "400" and index(admin) == before
        admin.unload_model("double", unload_dependents=True)
        states = {name: state for name, _, state in index(admin)}
        assert states == {"chain": "UNAVAILABLE", "double": "UNAVAILABLE", "plus": "READY"}
        admin.load_model("double")
        admin.load_model("chain")
        assert index(admin) == before
        admin.close()


@pytest.mark.parametrize("port", ["inference", "admin"])
def test_the_statistics_are_those_of_what_was_asked(calm: Server, port: str) -> None:
    admin = triton.InferenceServerClient(calm.admin_url.removeprefix("http://"))
    admin.unload_model("tiny")
    admin.load_model("tiny")  # counts anew
    admin.close()
    for rows in (1, 1, 3):
        ask(calm, "tiny", rows)
    with pytest.raises(InferenceServerException):
        ask(calm, "tiny", 0)
    url = calm.url if port == "inference" else calm.admin_url
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    (told,) = client.get_inference_statistics("tiny")["model_stats"]
    assert (told["name"], told["version"]) == ("tiny", "1.0.0")
    assert told["inference_count"] == 5 and told["execution_count"] == 3
    stats = told["inference_stats"]
    assert stats["success"]["count"] == 3 and stats["fail"]["count"] == 1
    assert stats["success"]["ns"] >= stats["compute_infer"]["ns"] > 0
    assert [(one["batch_size"], one["compute_infer"]["count"]) for one in told["batch_stats"]] == [(1, 2), (3, 1)]
    (other,) = client.get_inference_statistics("other", "1.0.0")["model_stats"]
    assert other["inference_count"] == other["last_inference"] == 0
    assert len(client.get_inference_statistics()["model_stats"]) == 2
    with pytest.raises(InferenceServerException, match="no such model"):
        client.get_inference_statistics("nobody")
    client.close()


@pytest.mark.long
def test_several_workers_are_one_repository_with_the_sums_of_their_statistics(root: Path) -> None:
    with serving(root, "--workers", "2") as server:
        admin = triton.InferenceServerClient(server.admin_url.removeprefix("http://"))
        for _ in range(30):  # each on a connection of its own: both workers get some
            ask(server, "tiny")
        (told,) = admin.get_inference_statistics("tiny")["model_stats"]
        assert told["inference_count"] == told["inference_stats"]["success"]["count"] == 30
        assert index(admin) == [("other", "1.0.0", "READY"), ("tiny", "1.0.0", "READY")]
        admin.unload_model("tiny")
        for _ in range(10):
            with pytest.raises(InferenceServerException, match="no such model"):
                ask(server, "tiny")
        admin.load_model("tiny")
        for _ in range(10):
            assert ask(server, "tiny").tolist() == [[3, 3, 3]]
        with pytest.raises(InferenceServerException, match="no such model"):
            admin.get_inference_statistics("nobody")
        admin.close()
