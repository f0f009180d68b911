"""One request explained: its trace, and where a policy decided, the decision with its proof in the audit log.

Knows where traces and decisions are kept; not how they came there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from onward.errors import NotFound, OnwardError
from onward.runners.serve.policies import Policies
from onward.runners.serve.traces import TRACES, Trace, Traces

if TYPE_CHECKING:
    from onward.store.store import Reader


async def explanation(request_id: str, policies: Policies | None, traces: Traces = TRACES) -> dict[str, Any]:
    """What became of a request, as JSON can hold it. Raises `NotFound` where it is none of the last ones here."""
    trace = await asyncio.to_thread(traces.snapshot().find, request_id)
    if trace is None:
        raise NotFound(
            "no trace of such a request", where=request_id[:80],
            expected=f"the x-request-id of one of the last {traces.most_requests} requests of this process",
        )  # fmt: skip
    if trace.decision_ids and policies is not None:
        try:
            trace.told["decisions"] = await _decisions(trace, policies)
        except OnwardError as error:  # the store cannot be reached: the rest can be told all the same
            trace.told["decisions"] = [{"decision_id": one, "error": error.code} for one in trace.decision_ids]
    return trace.told


async def _decisions(trace: Trace, policies: Policies) -> list[dict[str, Any]]:
    from onward.runners.serve import statements

    decisions = policies.decisions
    keys = decisions.keys

    def read(reader: Reader) -> list[dict[str, Any]]:
        return [
            statements.decision(reader, keys, trace.tenant, one) | {"proof": _proof(reader, trace.tenant, one)}
            for one in trace.decision_ids
        ]

    return await decisions.read(read)


def _proof(reader: Reader, tenant: str, decision_id: str) -> dict[str, Any]:
    """The decision's link of the chain, and whether its contents give its digest here and now.

    That the links before and after it hold, too, is what `onward audit verify` says.
    """
    from onward.act.desk import decision_entry
    from onward.store.chain import entry_digest

    entry = decision_entry(reader, tenant, decision_id)
    if entry is None:  # found a moment ago, in the same snapshot
        raise NotFound("no such decision", where=decision_id[:80])
    holds = entry_digest(entry.sequence, entry.previous, entry.draft) == entry.digest
    return {"sequence": entry.sequence, "digest": entry.digest, "previous": entry.previous, "holds": holds}
