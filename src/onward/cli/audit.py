"""Commands on what was decided: the audit log, and decisions decided again."""

from __future__ import annotations

from pathlib import Path

import click

from onward.cli import options
from onward.cli.options import FILE, as_json


@click.group()
def audit() -> None:
    """The audit log: append-only, hash-chained, checked without anything else."""


@audit.command()
@click.argument("log", type=FILE, required=False)
@options.store
@click.option(
    "--anchor",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="A file kept elsewhere: the log must contain what it says, and a log that holds is added to it.",
)
@click.option("--check-only", is_flag=True, help="Add nothing to the anchor.")
@as_json
def verify(log: Path | None, store: str, anchor: Path | None, check_only: bool, as_json: bool) -> None:
    """Check the whole chain: of the store, or of LOG, an exported file."""
    from onward.runners import audit as runner

    runner.verify(log, store, anchor=anchor, check_only=check_only, as_json=as_json)


@audit.command()
@options.store
@click.option("--lines", "-n", type=click.IntRange(0), default=10, show_default=True, help="How many of the last.")
@click.option("--follow", "-f", is_flag=True, help="Go on with the entries that come.")
@click.option("--kind", default="", help="Only kinds that begin so: decision, action, approval, kill_switch, profile.")
@as_json
def tail(store: str, lines: int, follow: bool, kind: str, as_json: bool) -> None:
    """Show the last entries."""
    from onward.runners import audit as runner

    runner.tail(store, count=lines, follow=follow, kind=kind, as_json=as_json)


@audit.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), required=False)
@options.store
@click.option("--after", type=click.IntRange(0), default=0, show_default=True, help="Only entries after this one.")
@as_json
def export(out: Path | None, store: str, after: int, as_json: bool) -> None:
    """Write the log to OUT, or to standard output: JSON lines with all that the chain covers."""
    from onward.runners import audit as runner

    runner.export(store, out, after=after, as_json=as_json)


@click.group()
def decide() -> None:
    """Policies, and decisions decided again."""


@decide.command()
@click.argument("log", type=FILE, required=False)
@options.store
@options.key_file
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    default=Path("var/repository"),
    show_default=True,
    help="The repository whose packages have the policies.",
)
@click.option("--policy", type=FILE, default=None, help="Try this policy.toml: which decisions would change?")
@as_json
def replay(
    log: Path | None, store: str, key_file: Path | None, packages: Path, policy: Path | None, as_json: bool
) -> None:
    """Decide every logged decision again, from its entry alone: of the store, or of LOG, an exported file."""
    from onward.runners import decisions

    decisions.replay(log, store, packages=packages, policy=policy, key_file=key_file, as_json=as_json)


@decide.command()
@click.argument("policy")
@as_json
def test(policy: str, as_json: bool) -> None:
    """Check POLICY (a package, its folder, or a policy.toml beside its onward.toml), run its tests, show thresholds."""
    from onward.runners import decisions

    decisions.test(policy, as_json=as_json)
