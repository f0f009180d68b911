"""The admin port and browsers: what a page of another site can have sent without being asked does nothing."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import JSONResponse

from onward.runners.serve.admin import OnlyHere

FIELDS = "application/x-www-form-urlencoded"


async def status_of(method: str, headers: dict[str, str], body: bytes) -> int:
    """Of an answer where everything that is let through is a 200."""
    here = OnlyHere(JSONResponse({}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(here), base_url="http://127.0.0.1:8002") as client:
        url = "/v2/repository/models/m/unload"
        return (await client.request(method, url, headers=headers, content=body)).status_code


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"origin": "http://evil.example"}, b""),
        ({"origin": "null"}, b"{}"),
        ({"origin": "null", "content-type": FIELDS}, b"a=b"),
        ({"sec-fetch-site": "cross-site"}, b""),
        ({"sec-fetch-site": "same-site", "content-type": FIELDS}, b"{}"),
        ({"content-type": FIELDS}, b""),
        ({"content-type": FIELDS + "; charset=utf-8"}, b""),
        ({"content-type": "text/plain"}, b'{"parameters": {}, "a": "="}'),
        ({"content-type": "Multipart/form-data; boundary=x"}, b""),
    ],
)
async def test_what_a_browser_sends_without_asking_is_refused(headers: dict[str, str], body: bytes) -> None:
    assert await status_of("POST", headers, body) == 415
    assert await status_of("GET", {**headers, "content-length": "0"}, b"") == 200, "reading changes nothing"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({}, b'{"parameters": {"unload_dependents": false}}'),  # tritonclient
        ({"content-type": FIELDS}, b'{"parameters": {}}'),  # curl -d
        ({"content-type": "application/json"}, b"{}"),
        ({"content-type": "application/json", "origin": "http://localhost:1"}, b"{}"),  # a browser asks, in vain
    ],
)
async def test_what_programs_send_is_let_through(headers: dict[str, str], body: bytes) -> None:
    assert await status_of("POST", headers, body) == 200


async def test_another_host_is_refused() -> None:
    assert await status_of("GET", {"host": "evil.example"}, b"") == 400
