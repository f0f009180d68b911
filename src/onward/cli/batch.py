"""The command of a scoring job."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import click

from onward.cli.options import FILE, as_json, signed_by, size_bytes
from onward.errors import MissingExtra, UsageError
from onward.unpickling import unpickling_refused


@click.command()
@click.argument("package")
@click.argument("source", metavar="IN")
@click.argument("output", metavar="OUT")
@click.option("--query", default="", metavar="SQL", help="What to read of the database IN: select … order by …")
@click.option("--columns", default="", metavar="INPUT=COLUMN,…", help="Which column each input is read from.")
@click.option("--keep", default="", metavar="COLUMN,…", help="Columns of IN to write beside the answers; *: all.")
@click.option("--outputs", default="", help="Further outputs, by name, that are computed only on request.")
@click.option("--where", default="", metavar="CONDITION", help="Only rows for which this holds, as in SQL.")
@click.option("--limit", type=click.IntRange(0), default=None, help="Only the first N rows of IN.")
@click.option("--max-rejects", type=click.IntRange(0), default=None, help="End the job beyond so many rejected rows.")
@click.option("--memory", default="1G", show_default=True, help="What the job may hold at once: 512M, 2G.")
@click.option("--restart", is_flag=True, help="Start over: remove what OUT has of an earlier job.")
@click.option("--no-decide", is_flag=True, help="Answers only, although the package has a policy.")
@click.option("--store", default="", metavar="URL", help="Record decisions and actions there, each once.")
@click.option("--actions", type=FILE, default=None, help="What each action may do (actions.toml).")
@click.option("--key-file", type=click.Path(dir_okay=False, path_type=Path), default=None, envvar="ONWARD_KEY_FILE",
              help="The installation key; by default beside a SQLite store.")  # fmt: skip
@click.option("--tenant", default="default", show_default=True, help="Whose decisions these are.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Where rows are answered: on this machine's cores, or by a Ray cluster.")  # fmt: skip
@click.option("--ray-address", default="", metavar="HOST:PORT", help="The cluster; without it, Ray starts here.")
@as_json
@signed_by
def batch(
    package: str, source: str, output: str, query: str, columns: str, keep: str, outputs: str, where: str,
    limit: int | None, max_rejects: int | None, memory: str, restart: bool, no_decide: bool, store: str,
    actions: Path | None, key_file: Path | None, tenant: str, engine: str, ray_address: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Answer every row of IN into OUT; the same command again goes on where a killed one stopped.

    IN is a Parquet, Arrow, CSV, JSONL or text file, a folder or pattern of such, a folder of images, sound or texts, or
    a database, as sqlite:///FILE?table=NAME or postgresql://… with ?table= or --query. OUT is a file ending in
    .parquet, .arrow, .csv or .jsonl, a folder for Parquet parts, or a table to make, as sqlite:///FILE?table=NAME.
    """
    try:
        from onward.runners.batch.runner import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise MissingExtra("this needs pyarrow", expected="pip install 'onward[batch]'") from None
    from onward.runners.batch.records import Job
    from onward.runners.batch.summary import show

    job = Job(
        package=package, source=source, output=output, query=query, columns=_pairs(columns), keep=_names(keep),
        outputs=_names(outputs), where=where, limit=limit, max_rejects=max_rejects, restart=restart,
        memory_bytes=size_bytes("--memory", memory), decide=not no_decide, store=store, actions=actions,
        key_file=key_file, tenant=tenant, engine=engine, ray_address=ray_address,
    )  # fmt: skip
    # Ray ships its own objects as pickles between its own processes.
    with nullcontext() if engine == "ray" else unpickling_refused():
        summary = run(job)
    show(summary, as_json=as_json or not sys.stdout.isatty())


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in _names(text):
        name, equals, column = map(str.strip, part.partition("="))
        if not (name and equals and column):
            raise UsageError("not understood", where="--columns", expected="INPUT=COLUMN,…", found=part)
        pairs[name] = column
    return pairs
