"""The kill switch: while it is on, no relay begins an action, everywhere, for one tenant, or of one name.

What is EXECUTING when it is turned on is finished: its outcome has to be known. Nothing is lost; what waits goes on
when the switch is off again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onward.act.ledger import Ledger, audit_ledger
from onward.errors import InputError
from onward.store.records import Switch
from onward.store.store import Reader, Transaction

EVERYTHING = "actions"
_OF_TENANT = "actions/"
_OF_ACTION = "action/"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_NAME_FORM = "1 to 64 letters, digits, dots, hyphens and underscores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What is switched off now."""

    everything: bool = False
    tenants: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()

    def covers(self, *, tenant: str, action: str) -> bool:
        """Whether this action of this tenant must not begin."""
        return self.everything or tenant in self.tenants or action in self.actions


def stopped(reader: Reader) -> Stopped:
    """What the store's switches say."""
    on = [name for name, switch in reader.switches().items() if switch.on]
    return Stopped(
        everything=EVERYTHING in on,
        tenants=frozenset(name.removeprefix(_OF_TENANT) for name in on if name.startswith(_OF_TENANT)),
        actions=frozenset(name.removeprefix(_OF_ACTION) for name in on if name.startswith(_OF_ACTION)),
    )


def turn(
    tx: Transaction,
    *,
    on: bool,
    by: str,
    at_s: float,
    tenant: str = "",
    action: str = "",
    note: str = "",
    ledger: Ledger | None = None,
) -> Switch:
    """Turn the switch for everything, for one tenant, or for one action of all tenants; audited.

    Raises `InputError` for what cannot be the name of a tenant or an action.
    """
    if tenant and action:
        raise ValueError("a switch is for a tenant or for an action, not for both")
    for what, said in (("tenant", tenant), ("action", action)):
        if said and _NAME.fullmatch(said) is None:  # nothing is called so: the slip would stop nothing
            raise InputError(f"this names no {what}", where=what, expected=_NAME_FORM, found=repr(said[:80]))
    name = f"{_OF_TENANT}{tenant}" if tenant else f"{_OF_ACTION}{action}" if action else EVERYTHING
    switch = tx.set_switch(name, on, by, at_s)
    said = ": ".join(part for part in (f"action {action}" if action else "", note) if part)
    (ledger or audit_ledger()).note_kill_switch(tx, on=on, tenant=tenant, by=by, at_s=at_s, note=said)
    return switch
