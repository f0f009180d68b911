"""The command that holds a new endpoint against the old one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onward.cli.options import FILE, as_json
from onward.errors import UsageError

_POSITIVE = click.FloatRange(0, min_open=True)
_PID = click.IntRange(1)


@click.command()
@click.argument("old_url")
@click.argument("new_url")
@click.option("--requests", type=FILE, required=True, help="JSONL: V2 bodies, plain items, or recorded requests.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=NEW", help="What the new one calls an input.")
@click.option("--output", "outputs", multiple=True, metavar="OLD=NEW",
              help="A place in the old answer and in the new; may be given several times.")  # fmt: skip
@click.option("--ignore", multiple=True, metavar="PLACE", help="A place in answers that is not compared.")
@click.option("--by-value", is_flag=True, help="Compare values whatever their shapes: [[0.5]], [0.5] and 0.5 are one.")
@click.option("--old-header", multiple=True, metavar="'NAME: VALUE'", help="A header for the old endpoint only.")
@click.option("--new-header", multiple=True, metavar="'NAME: VALUE'", help="A header for the new endpoint only.")
@click.option("--together", type=click.IntRange(1, 1024), default=8, show_default=True, help="Requests at a time.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=10.0, show_default=True,
              help="How long to measure, both together; 0: compare answers only.")  # fmt: skip
@click.option("--timeout", type=_POSITIVE, default=30.0, show_default=True, help="Seconds that an answer may take.")
@click.option("--tolerance", type=click.FloatRange(0, 1e6), default=1e-5, show_default=True,
              help="How far numbers may differ, over their size where that is above 1.")  # fmt: skip
@click.option("--min-agreement", type=click.FloatRange(0, 1), default=1.0, show_default=True,
              help="The least share of requests that are answered alike.")  # fmt: skip
@click.option("--max-p99-ratio", type=_POSITIVE, default=None, help="The new p99 over the old one, at most.")
@click.option("--old-pid", type=_PID, default=None, help="The old server's process here, for its processor time.")
@click.option("--new-pid", type=_PID, default=None, help="The new server's.")
@click.option("--old-price", type=click.FloatRange(0), default=None, help="What the old one costs an hour.")
@click.option("--new-price", type=click.FloatRange(0), default=None, help="What the new one costs an hour.")
@as_json
def compare(old_url: str, new_url: str, as_json: bool, **chosen: Any) -> None:
    """Send the same requests to OLD_URL and NEW_URL: do answers agree, and what do latency and cost say?

    An address names the model's path: /v2/models/NAME/infer, /models/NAME, /predictions/NAME, or any that takes JSON.
    """
    import msgspec

    from onward.runners.endpoints.comparing import Settings
    from onward.runners.endpoints.comparing import compare as compare_endpoints
    from onward.runners.endpoints.endpoint import Endpoint
    from onward.runners.endpoints.report import Bounds
    from onward.runners.endpoints.table import show_comparison

    pretty = sys.stdout.isatty() and not as_json
    inputs, outputs = _pairs("--input", chosen["inputs"]), _pairs("--output", chosen["outputs"])
    old = Endpoint.at("old", old_url, chosen["old_header"])
    new = Endpoint.at("new", new_url, chosen["new_header"], inputs=inputs, outputs=outputs)
    settings = Settings(
        requests=Path(chosen["requests"]), outputs=outputs, ignored=chosen["ignore"], by_value=chosen["by_value"],
        together=chosen["together"], seconds=chosen["seconds"], timeout_s=chosen["timeout"],
        pids=(chosen["old_pid"], chosen["new_pid"]), prices_per_hour=(chosen["old_price"], chosen["new_price"]),
        bounds=Bounds(
            tolerance=chosen["tolerance"], agreement=chosen["min_agreement"], p99_ratio=chosen["max_p99_ratio"]
        ),
    )  # fmt: skip
    progress = (lambda text: click.echo(f"{text} …", err=True)) if pretty else (lambda _: None)
    found = compare_endpoints(old, new, settings, progress=progress)
    if pretty:
        show_comparison(found)
    else:
        click.echo(msgspec.json.encode(found.as_record()).decode())
    found.check()


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if any(not (old and new) for old, _, new in pairs):
        raise UsageError("not a pair", where=option, expected="OLD=NEW", found=" ".join(given)[:80])
    return {old: new for old, _, new in pairs}
