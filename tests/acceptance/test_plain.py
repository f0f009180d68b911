"""`POST /models/{name}`: what people have goes in, what they read comes out."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import onward
from tests.acceptance.conftest import Server, png

LOAN = {"amount": 9000.0, "income": 3200.0, "years_employed": 6, "purpose": "car", "customer": True}
BLUE = png((20, 70, 210), (120, 80))


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as opened:
        yield opened


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    assert told["request_id"] == response.headers["x-request-id"]
    return told


@pytest.mark.parametrize("path", ["/models/loan", "/models/loan/versions/1.2.0", "/mod%65ls/loan"])
def test_json_fields_get_labels_with_scores_named_fields_and_who_answered(client: httpx.Client, path: str) -> None:
    told = answered(client.post(path, json=LOAN))
    assert told.keys() == {"answer", "package", "version", "request_id"}
    assert (told["package"], told["version"]) == ("loan", "1.2.0")
    answer = told["answer"]
    assert answer["label"] == "approve" and answer["risk"] == pytest.approx(190.0)
    assert [one["label"] for one in answer["labels"]] == ["approve", "review", "decline"]
    assert answer["score"] == answer["labels"][0]["score"] == pytest.approx(0.768, abs=1e-3)
    assert sum(one["score"] for one in answer["labels"]) == pytest.approx(1.0, abs=1e-5)
    assert "contributions" not in answer


def test_further_outputs_come_when_asked_for_by_name(client: httpx.Client) -> None:
    answer = answered(client.post("/models/loan?outputs=contributions", json=LOAN))["answer"]
    assert answer["contributions"].keys() == LOAN.keys()
    assert answer["contributions"]["income"] == pytest.approx(-192.0)
    assert answer["label"] == "approve"


def test_a_list_of_items_gets_a_list_of_answers_in_order(client: httpx.Client) -> None:
    items = [LOAN | {"income": float(income)} for income in range(0, 8000, 100)]
    told = answered(client.post("/models/loan", json=items))
    single = [answered(client.post("/models/loan", json=item))["answer"]["risk"] for item in items[::20]]
    assert [one["risk"] for one in told["answers"]][::20] == pytest.approx(single)
    assert len(told["answers"]) == 80 and "answer" not in told
    assert len(answered(client.post("/models/loan", json=[LOAN]))["answers"]) == 1


def test_a_missing_field_with_a_default_is_filled_in(client: httpx.Client) -> None:
    item = {name: value for name, value in LOAN.items() if name != "years_employed"}
    want = answered(client.post("/models/loan", json=LOAN | {"years_employed": 2}))["answer"]
    assert answered(client.post("/models/loan", json=item))["answer"] == want


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_raw_image_of_any_common_kind_is_answered(client: httpx.Client, kind: str) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(BLUE)).save(file, kind)
    headers = {"content-type": f"image/{kind.lower()}"}
    answer = answered(client.post("/models/shade", content=file.getvalue(), headers=headers))["answer"]
    assert answer["label"] == "blue" and answer["score"] > 0.5


@pytest.mark.parametrize("field", ["image", "file"])
def test_an_image_in_a_form_is_answered(client: httpx.Client, field: str) -> None:
    told = answered(client.post("/models/shade", files={field: ("photo.png", BLUE, "image/png")}))
    assert told["answer"]["label"] == "blue" and told["package"] == "shade"


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_an_image_in_json_travels_as_base64(client: httpx.Client, prefix: str) -> None:
    text = prefix + base64.b64encode(BLUE).decode()
    assert answered(client.post("/models/shade", json={"image": text}))["answer"]["label"] == "blue"


def test_fields_may_come_as_a_form(client: httpx.Client) -> None:
    parts = {name: (None, str(value)) for name, value in LOAN.items() if name != "customer"}
    response = client.post("/models/loan", files=parts | {"customer": (None, "true")})
    assert answered(response)["answer"]["risk"] == pytest.approx(190.0)


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=latin-1", '; charset="utf-16"'])
def test_text_is_read_in_its_charset(tensors: Server, charset: str) -> None:
    name = charset.partition("=")[2].strip('"') or "utf-8"
    body = "naïve café".encode(name)
    response = httpx.post(
        tensors.url + "/models/reader", content=body, headers={"content-type": f"text/plain{charset}"}
    )
    assert answered(response)["answer"] == {"same": "naïve café"}
    assert (
        httpx.post(tensors.url + "/models/reader", json={"text": "naïve café"}).json()["answer"]["same"] == "naïve café"
    )


@pytest.mark.parametrize(("charset", "body"), [("utf-8", b"\xff\xfe"), ("klingon", b"x")])
def test_text_that_is_not_in_its_charset_is_refused(tensors: Server, charset: str, body: bytes) -> None:
    headers = {"content-type": f"text/plain; charset={charset}"}
    response = httpx.post(tensors.url + "/models/reader", content=body, headers=headers)
    assert response.status_code == 400 and response.json()["code"] == "MALFORMED_BODY"


def test_curl_without_a_content_type_works(server: Server) -> None:
    command = ["curl", "-s", f"{server.url}/models/loan", "-d", json.dumps(LOAN)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    assert json.loads(done.stdout)["answer"]["label"] == "approve"


def test_the_server_answers_what_the_pipeline_answers_in_process(client: httpx.Client, repository: Path) -> None:
    loan, shade = onward.open(repository / "loan" / "1.2.0"), onward.open(repository / "shade" / "1.0.0")
    for income in (0.0, 1234.5, 9999.0):
        item = LOAN | {"income": income}
        assert answered(client.post("/models/loan", json=item))["answer"] == dict(loan(item).answer)
    response = client.post("/models/shade", content=BLUE, headers={"content-type": "image/png"})
    assert answered(response)["answer"] == dict(shade(BLUE).answer)


def test_the_fields_of_the_item_may_come_as_v2_tensors_too(client: httpx.Client) -> None:
    kinds = {"amount": "FP32", "income": "FP32", "years_employed": "INT32", "purpose": "BYTES", "customer": "BOOL"}
    inputs = [{"name": name, "shape": [2], "datatype": kind, "data": [LOAN[name]] * 2} for name, kind in kinds.items()]
    response = client.post("/v2/models/loan/infer", json={"inputs": inputs, "outputs": [{"name": "risk"}]})
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert output["shape"] == [2] and output["data"] == pytest.approx([190.0, 190.0])


def test_the_list_of_models_says_what_each_takes_and_gives(client: httpx.Client) -> None:
    listed = {one["name"]: one for one in client.get("/models").json()["models"]}
    assert set(listed) == {"loan", "shade"}
    amount = listed["loan"]["fields"]["inputs"][0]
    assert (amount["name"], amount["units"], amount["minimum"], amount["maximum"]) == ("amount", "EUR", 100, 50000)
    example = client.get("/models/loan/example").json()["examples"][0]
    assert answered(client.post("/models/loan", json=example["input"]))["answer"]["label"] == "approve"
