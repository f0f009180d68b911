"""Commands on what is to be done: actions, approvals, the kill switch."""

from __future__ import annotations

from typing import Any

import click

from onward.cli import options
from onward.cli.options import FILE, as_json, person

STATES = ("waiting", "pending", "leased", "executing", "unknown", "dead", "done", "refused")


@click.group()
def actions() -> None:
    """Actions of the outbox: what is under way, what failed, what may have happened."""


@actions.command("list")
@options.store
@options.tenant
@click.option("--state", type=click.Choice(STATES), multiple=True, help="Only in this state; by default all but ends.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many of a state.")
@as_json
def list_actions(store: str, tenant: str | None, state: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List actions, the oldest first."""
    from onward.runners import outbox

    outbox.list_actions(store, tenant=tenant, states=state or STATES[:6], limit=limit, as_json=as_json)


@actions.command()
@click.argument("action_id")
@options.store
@options.key_file
@as_json
def show(action_id: str, **where: Any) -> None:
    """Show one action: its payload, its approvals, and all that happened to it."""
    from onward.runners import outbox

    outbox.show_action(action_id, where.pop("store"), **where)


@actions.command()
@click.argument("action_id")
@options.store
@options.by
@options.note
@as_json
def retry(action_id: str, by: str | None, **where: Any) -> None:
    """Try a dead action again. One that may have happened is not retried: see reconcile."""
    from onward.runners import outbox

    outbox.retry(action_id, where.pop("store"), by=person(by), **where)


@actions.command()
@click.argument("action_id")
@options.store
@options.by
@options.note
@as_json
def discard(action_id: str, by: str | None, **where: Any) -> None:
    """Give an action up for good."""
    from onward.runners import outbox

    outbox.discard(action_id, where.pop("store"), by=person(by), **where)


@actions.command()
@click.argument("action_id")
@click.option(
    "--happened/--did-not-happen",
    default=None,
    help="What you found out: it is done, or it is tried again.",
)
@options.store
@options.by
@options.note
@as_json
def reconcile(action_id: str, happened: bool | None, by: str | None, **where: Any) -> None:
    """Say whether an action that may have happened did, once you know."""
    from onward.runners import outbox

    if happened is None:
        raise click.UsageError("say --happened or --did-not-happen")
    outbox.reconcile(action_id, where.pop("store"), happened=happened, by=person(by), **where)


@actions.command()
@click.argument("action_id")
@click.option("--actions", "targets", type=FILE, required=True, help="What each action may do (actions.toml).")
@options.store
@options.key_file
@options.by
@options.note
@as_json
def compensate(action_id: str, by: str | None, **where: Any) -> None:
    """Undo an action that is done, by the action that its policy names for it."""
    from onward.runners import outbox

    outbox.compensate(action_id, where.pop("store"), by=person(by), **where)


@click.group()
def approvals() -> None:
    """Actions that wait for a person."""


@approvals.command("list")
@options.store
@options.key_file
@options.tenant
@as_json
def list_approvals(store: str, **where: Any) -> None:
    """List what can be approved now, with each payload and its hash."""
    from onward.runners import outbox

    outbox.list_approvals(store, **where)


@approvals.command()
@click.argument("approval_id")
@click.option("--digest", default="", help="The hash of the payload that you saw, or its first 12 digits or more.")
@options.store
@options.key_file
@options.by
@options.note
@as_json
def approve(approval_id: str, digest: str, by: str | None, **where: Any) -> None:
    """Let an action happen, exactly as it was shown. In a terminal, shows it and asks; else needs --digest."""
    from onward.runners import outbox

    outbox.approve(approval_id, where.pop("store"), digest=digest, by=person(by), **where)


@approvals.command()
@click.argument("approval_id")
@options.store
@options.by
@options.note
@as_json
def refuse(approval_id: str, by: str | None, **where: Any) -> None:
    """Refuse an action for good."""
    from onward.runners import outbox

    outbox.refuse(approval_id, where.pop("store"), by=person(by), **where)


@click.group("kill-switch")
def kill_switch() -> None:
    """Stop all actions at once, or those of a tenant, or of one name."""


_one_action = click.option("--action", default=None, help="Only actions of this name.")


@kill_switch.command()
@options.store
@options.tenant
@_one_action
@options.by
@options.note
@as_json
def on(store: str, by: str | None, **where: Any) -> None:
    """No action begins any more; what is reserved waits."""
    from onward.runners import outbox

    outbox.turn_kill_switch(store, on=True, by=person(by), **where)


@kill_switch.command()
@options.store
@options.tenant
@_one_action
@options.by
@options.note
@as_json
def off(store: str, by: str | None, **where: Any) -> None:
    """Let actions go on."""
    from onward.runners import outbox

    outbox.turn_kill_switch(store, on=False, by=person(by), **where)


@kill_switch.command()
@options.store
@as_json
def status(store: str, as_json: bool) -> None:
    """Show which switches were turned, by whom and when."""
    from onward.runners import outbox

    outbox.show_kill_switches(store, as_json=as_json)
