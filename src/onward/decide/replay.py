"""Decisions decided again: from their entries in the audit log alone, and the policy that the entry names.

With the policy that decided, every decision must come out bit for bit as it was recorded. With another policy, the
report says which decisions would change. Knows nothing of stores and terminals.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from onward.decide.audit import (
    DECISION,
    HiddenDecision,
    RecordedDecision,
    Sealer,
    canonical,
    plain_decision,
    read_decision,
)
from onward.decide.policy import Policy
from onward.errors import OnwardError
from onward.store.records import AuditEntry
from onward.store.store import Reader, StoreUnavailable

FindPolicy: TypeAlias = Callable[[RecordedDecision], Policy | None]
"""The policy to decide a recorded decision again with; None where it cannot be had."""


class ReplayDiffers(OnwardError):
    """Deciding again did not give what was recorded, or could not be done."""

    code = "REPLAY_DIFFERS"
    status = 500
    exit_code = 65


class Verdict(enum.Enum):
    """What deciding again showed."""

    SAME = "same"
    DIFFERENT = "different"
    ERASED = "erased"  # the entity was erased, and what was decided on with it
    SEALED = "sealed"  # the keys are not at hand
    NO_POLICY = "no_policy"
    UNREADABLE = "unreadable"
    FAILED = "failed"  # the policy raised an error


PROVEN = frozenset({Verdict.SAME, Verdict.ERASED})
"""With these, nothing speaks against the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One decision that did not come out the same; `recorded` and `replayed` are plain values (None: not known)."""

    sequence: int
    decision_id: str
    verdict: Verdict
    recorded: dict[str, Any] | None = None
    replayed: dict[str, Any] | None = None
    why: str = ""


@dataclass(slots=True, kw_only=True)
class Replay:
    """The report: how many decisions came out how, which outcomes changed into which, and the first findings."""

    decisions: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether every decision came out the same, but for the erased ones."""
        return all(verdict in PROVEN for verdict in self.verdicts)


def replay(
    entries: Iterable[AuditEntry],
    find_policy: FindPolicy,
    *,
    keys: Sealer | None = None,
    reader: Reader | None = None,
    only: str = "",
    keep: int = 100,
) -> Replay:
    """Decide again every decision among the entries; `keep` at most that many findings that are not the same.

    `keys` and `reader` open what is sealed; without them such decisions are reported as sealed. With `only`, the
    decisions of other policies than of that name are passed over.
    """
    report = Replay()
    for entry in entries:
        if entry.draft.kind != DECISION:
            continue
        found = _decide_again(entry, find_policy, keys, reader, only)
        if found is None:
            continue
        report.decisions += 1
        report.verdicts[found.verdict] += 1
        if found.verdict is Verdict.DIFFERENT and found.recorded is not None and found.replayed is not None:
            report.changes[found.recorded["outcome"], found.replayed["outcome"]] += 1
        if found.verdict is not Verdict.SAME and len(report.findings) < keep:
            report.findings.append(found)
    return report


def _decide_again(
    entry: AuditEntry, find_policy: FindPolicy, keys: Sealer | None, reader: Reader | None, only: str
) -> Finding | None:
    def finding(verdict: Verdict, **more: Any) -> Finding:
        return Finding(sequence=entry.sequence, decision_id=entry.draft.subject, verdict=verdict, **more)

    try:
        recorded = read_decision(entry, keys, reader)
    except StoreUnavailable:
        raise
    except OnwardError as error:  # also of the keys: what is sealed was changed, or under another installation's key
        return finding(Verdict.UNREADABLE, why=f"{error} [{error.code}]")
    if only and recorded.policy != only:
        return None
    if isinstance(recorded, HiddenDecision):
        return finding(Verdict.ERASED if recorded.erased else Verdict.SEALED)
    before = plain_decision(recorded.decision)
    policy = find_policy(recorded)
    if policy is None:
        why = f"no package has the policy {recorded.policy} {recorded.policy_version}, {recorded.policy_digest[:12]}"
        return finding(Verdict.NO_POLICY, recorded=before, why=why)
    try:
        now = plain_decision(policy.decide(recorded.facts))
    except OnwardError as error:
        return finding(Verdict.FAILED, recorded=before, why=f"{error} [{error.code}]")
    same = canonical(now) == canonical(before)
    return finding(Verdict.SAME if same else Verdict.DIFFERENT, recorded=before, replayed=now)
