"""`onward explain`: a server's admin port is asked what became of a request."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.errors import NotFound, Unavailable, UsageError
from onward.runners.load.connection import place_of

_TIMEOUT_S = 10.0
_BAR_WIDTH = 40
_console = Console(highlight=False)


def explain(request_id: str, url: str, *, as_json: bool) -> None:
    """Print what became of a request. Raises `NotFound`, `Unavailable` or `UsageError`."""
    told = asked(request_id, url)
    if sys.stdout.isatty() and not as_json:
        show(told)
    else:
        print(msgspec.json.encode(told).decode())  # noqa: T201


def asked(request_id: str, url: str) -> dict[str, Any]:
    """What the admin port at `url` knows of a request."""
    place = place_of(url, where="--url")
    if place.tls:
        raise UsageError("the admin port speaks plain HTTP, on its own machine", where="--url", found=url[:80])
    with closing(http.client.HTTPConnection(place.host, place.port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", f"{place.path}/admin/requests/{quote(request_id, safe='')}")
            response = connection.getresponse()
            told = msgspec.json.decode(response.read(), type=dict[str, Any])
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable("no server can be asked", where=url, found=str(error) or type(error).__name__) from None
        except msgspec.DecodeError:
            raise Unavailable("this is not Onward's admin port", where=url) from None
    if response.status == 404:
        raise NotFound(str(told.get("error", "no trace of such a request")))
    if response.status != 200:
        raise Unavailable(str(told.get("error", "no answer")), where=url, found=f"status {response.status}")
    return told


def show(told: Mapping[str, Any]) -> None:
    """A request for a person: its time as bars, its batch, its decisions."""
    package = f"{told['package']} {told['version']} ({told['digest'][:12]}…)" if "package" in told else ""
    colour = "green" if told.get("outcome") == "answered" else "red"
    _console.print(f"[bold]{escape(told['request_id'])}[/]  [{colour}]{told.get('outcome', '')}[/]  {escape(package)}")
    if "error" in told:
        _console.print(f"  {escape(told['error'])}")
    _console.print(_times(told["times_ms"]))
    if "stages_ms" in told:
        _console.print(
            "  stages  " + " · ".join(f"{escape(name)} {took:.3f} ms" for name, took in told["stages_ms"].items())
        )
    if "batch" in told:
        _console.print(f"  batch   {_batch(told['batch'])}")
    for decision in told.get("decisions", ()):
        _console.print(f"  decided {escape(_decision(decision))}")


def _times(times_ms: Mapping[str, float]) -> Table:
    table = Table.grid(padding=(0, 2))
    total = times_ms.get("total", 0.0)
    for name, took in times_ms.items():
        bar = "█" * round(took / total * _BAR_WIDTH) if total and name != "total" else ""
        table.add_row(f"  {name}", f"{took:.3f} ms", f"[cyan]{bar}[/]")
    return table


def _batch(batch: Mapping[str, Any]) -> str:
    told = f"{batch['own_rows']} of {batch['rows']} rows, with {batch['mates']} other request(s); "
    told += f"bucket {batch['bucket']}, {batch['padding_rows']} row(s) of padding"
    if "length" in batch:
        told += f"; length {batch['length']} of {batch['padded_length']}, {batch['padding_share']:.0%} padding"
    return told + (" (invariant)" if batch["mode"] == "invariant" else "")


def _decision(decision: Mapping[str, Any]) -> str:
    if "error" in decision:
        return f"{decision['decision_id']}: {decision['error']}"
    rule = f" by {decision['rule']}" if decision.get("rule") else ""
    actions = ", ".join(f"{one['name']} {one['state']}" for one in decision["actions"])
    proof = decision["proof"]
    proven = "its digest holds" if proof["holds"] else "ITS DIGEST DOES NOT HOLD"
    told = f"{decision['outcome']}{rule} ({decision['decision_id']})" + (f": {actions}" if actions else "")
    return f"{told}; audit entry {proof['sequence']}, {proof['digest'][:12]}…, {proven}"
