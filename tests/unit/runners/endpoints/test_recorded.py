"""A file of requests may hold bodies, items or whole requests; what cannot be one is told with its line."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from onward.errors import MalformedBody
from onward.runners.endpoints.recorded import Recorded, read_requests

V2 = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}


def read(folder: Path, *lines: Any) -> list[Recorded]:
    (folder / "r.jsonl").write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return read_requests(folder / "r.jsonl")


def test_bodies_items_and_whole_requests_are_told_apart(tmp_path: Path) -> None:
    whole = {"path": "/v2/models/m/infer", "body": V2}
    found = read(tmp_path, V2, "", {"x": 1}, {"path": "home", "x": 2}, whole, [1, 2])
    assert [(one.line, one.is_v2, one.path) for one in found] == [
        (1, True, ""), (3, False, ""), (4, False, ""), (5, True, "/v2/models/m/infer"), (6, False, ""),
    ]  # fmt: skip


def test_a_body_may_be_written_as_a_text_or_in_base64(tmp_path: Path) -> None:
    picture = base64.b64encode(b"\x89PNG").decode()
    found = read(
        tmp_path, {"path": "/a", "body": json.dumps(V2)}, {"path": "/a", "body_base64": picture},
        {"path": "/a", "body": "hello", "headers": {"Content-Type": "text/plain"}}, {"path": "/a", "method": "GET"},
    )  # fmt: skip
    assert [(one.is_v2, one.raw) for one in found] == [
        (True, None), (False, b"\x89PNG"), (False, b"hello"), (False, b""),
    ]  # fmt: skip
    assert found[2].headers == {"content-type": "text/plain"}


def test_what_says_who_sent_it_and_that_it_happens_once_is_not_sent_again(tmp_path: Path) -> None:
    headers = {"Authorization": "secret", "Cookie": "c", "Idempotency-Key": "k", "Host": "h", "X-Onward-Tenant": "t"}
    (found,) = read(tmp_path, {"path": "/a", "headers": headers, "body": {}})
    assert found.headers == {"x-onward-tenant": "t"}


@pytest.mark.parametrize(
    "line",
    ["{", "[" * 100_000, {"path": "a"}, {"path": "/a", "method": "DELETE"}, {"path": "/a", "headers": {"a": 1}},
     {"path": "/a", "body_base64": "?"}, {"path": "/a\r\nx: y"}],
    ids=["half", "deep", "relative", "method", "headers", "base64", "two headers"],
)  # fmt: skip
def test_a_line_that_is_no_request_is_named(line: Any, tmp_path: Path) -> None:
    with pytest.raises(MalformedBody) as told:
        read(tmp_path, {"x": 1}, line)
    assert told.value.where.endswith("r.jsonl:2")


def test_a_file_without_a_request_is_none(tmp_path: Path) -> None:
    with pytest.raises(MalformedBody):
        read(tmp_path, "", " ")
