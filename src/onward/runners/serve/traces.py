"""What became of each of the last requests: with whom it ran, how long it waited, and what was decided on it.

As its ids are numbered by the process, so are a request's traces the process's. While requests are answered, no more is
done than to keep a few numbers of each in a ring; they are read, and made sense of, when somebody asks. Knows no HTTP.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from onward.execute.scheduler import length_bucket
from onward.types import PackageId

if TYPE_CHECKING:
    from onward.execute.invariance import Shapes
    from onward.execute.scheduler import Batch
    from onward.runners.serve.request import Outputs, Request

MOST_REQUESTS = 16_384
_MOST_REFUSALS = 4_096
_MOST_DECISIONS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whose batches these are. `shapes` are those that rows are filled up to in invariant mode, else None."""

    package: PackageId
    shapes: Shapes | None = None


class Mate(NamedTuple):
    """One request of a batch, on the monotonic clock: when its whole body was there, and when it was queued."""

    request_id: bytes
    arrived_s: float
    queued_s: float
    rows: int
    length: int


class _Ran(NamedTuple):
    source: Source
    started_s: float
    run_s: float
    prepare_s: float
    rows: int
    bucket: int
    answered_s: list[float]
    mates: list[Mate]


_MATES = _Ran._fields.index("mates")
_ALONE = _MATES + len(Mate._fields)
"""How long the record of a batch of one is: its request's own numbers stand in place of the list of all."""


class _Refused(NamedTuple):
    request_id: bytes
    arrived_s: float
    ended_s: float
    code: str
    told: str


class _Decided(NamedTuple):
    request_id: bytes
    tenant: str
    decision_ids: tuple[str, ...]
    commit_s: float
    answered_s: float
    repeated: bool


class _Staged(NamedTuple):
    request_id: bytes
    package: PackageId
    arrived_s: float
    answered_s: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """All that is known of one request, as JSON can hold it, and the decisions on it for who can look them up."""

    told: dict[str, Any]
    tenant: str = ""
    decision_ids: Sequence[str] = field(default_factory=tuple)


class Traces:
    """The traces of one process, written and read on its loop; bounded, the oldest go first."""

    def __init__(self, most_requests: int = MOST_REQUESTS) -> None:
        self.most_requests = most_requests
        self._held = 0
        self._batches: deque[tuple[Any, ...]] = deque()  # each a `_Ran` without its name, which takes a third to make
        self._refused: deque[_Refused] = deque(maxlen=min(_MOST_REFUSALS, most_requests))
        self._decided: deque[_Decided] = deque(maxlen=min(_MOST_DECISIONS, most_requests))
        self._staged: deque[_Staged] = deque(maxlen=min(_MOST_DECISIONS, most_requests))

    # --- While requests are answered ---

    def ran(
        self, source: Source, batch: Batch, run_s: float, outputs: Outputs, works: Sequence[Request],
        answered_s: list[float],
    ) -> None:  # fmt: skip
        """A batch's answers have been written, at the given times."""
        if len(works) == 1:  # the most there can be in a second: one record without lists in it
            work = works[0]
            self._batches.append(
                (source, batch.started_s, run_s, outputs.prepare_s, batch.rows, batch.bucket, answered_s[0],
                 work.request_id, work.arrived_s, work.queued_s, work.rows, work.length)
            )  # fmt: skip
        else:
            self._batches.append(
                (source, batch.started_s, run_s, outputs.prepare_s, batch.rows, batch.bucket, answered_s,
                 [(work.request_id, work.arrived_s, work.queued_s, work.rows, work.length) for work in works])
            )  # fmt: skip
        self._held += len(works)
        while self._held > self.most_requests:
            oldest = self._batches.popleft()
            self._held -= 1 if len(oldest) == _ALONE else len(oldest[_MATES])

    def refused(self, request_id: bytes, arrived_s: float, code: str, told: str) -> None:
        """A request was answered with an error."""
        self._refused.append(_Refused(request_id, arrived_s, time.monotonic(), code, told))

    def decided(
        self, request_id: bytes, tenant: str, decision_ids: tuple[str, ...], commit_s: float, *, repeated: bool
    ) -> None:
        """A request was answered with decisions, that are durable since."""
        self._decided.append(_Decided(request_id, tenant, decision_ids, commit_s, time.monotonic(), repeated))

    def staged(self, request_id: bytes, package: PackageId, arrived_s: float, stages_ms: Mapping[str, float]) -> None:
        """A request has gone through the stages of a package made of others."""
        self._staged.append(_Staged(request_id, package, arrived_s, time.monotonic(), stages_ms))

    # --- When somebody asks ---

    @property
    def held(self) -> int:
        """How many requests that ran are kept."""
        return self._held

    def snapshot(self) -> Traces:
        """The same traces, to be looked through elsewhere while these go on."""
        taken = Traces(self.most_requests)
        taken._held, taken._batches = self._held, self._batches.copy()
        taken._refused, taken._decided = self._refused.copy(), self._decided.copy()
        taken._staged = self._staged.copy()
        return taken

    def find(self, request_id: str) -> Trace | None:
        """What is known of a request; None where it is none of the last ones."""
        wanted = request_id.encode()
        told: dict[str, Any] = {"request_id": request_id}
        times: dict[str, float] = {}
        known = self._add_run(wanted, told, times) | self._add_stages(wanted, told, times)
        refused = next((one for one in reversed(self._refused) if one.request_id == wanted), None)
        if refused is not None:
            known = True
            told |= {"outcome": refused.code, "error": refused.told} | _at(refused.arrived_s or refused.ended_s)
            if refused.arrived_s:
                times["total"] = refused.ended_s - refused.arrived_s
        decided = next((one for one in reversed(self._decided) if one.request_id == wanted), None)
        if decided is not None:
            known = True
            told.setdefault("outcome", "answered")  # by the policy alone, where the model gave no answer
            told |= {"repeated": decided.repeated}
            times["decide"] = decided.commit_s
            if "arrived_s" in told:
                times["total"] = decided.answered_s - (told["arrived_s"] - _epoch_s())
        if not known:
            return None
        told["times_ms"] = {name: round(value * 1e3, 4) for name, value in times.items()}
        if decided is None:
            return Trace(told=told)
        return Trace(told=told, tenant=decided.tenant, decision_ids=decided.decision_ids)

    def _add_run(self, wanted: bytes, told: dict[str, Any], times: dict[str, float]) -> bool:
        for plain in reversed(self._batches):
            if len(plain) == _ALONE:
                place = 0 if plain[_MATES] == wanted else -1
            else:
                place = next((at for at, mate in enumerate(plain[_MATES]) if mate[0] == wanted), -1)
            if place >= 0:
                ran = _seen(plain)
                told |= {"outcome": "answered"} | _package(ran.source.package) | _at(ran.mates[place].arrived_s)
                told["batch"] = _batch(ran, place)
                times |= _times(ran, place)
                return True
        return False

    def _add_stages(self, wanted: bytes, told: dict[str, Any], times: dict[str, float]) -> bool:
        staged = next((one for one in reversed(self._staged) if one.request_id == wanted), None)
        if staged is None:
            return False
        told |= {"outcome": "answered"} | _package(staged.package) | _at(staged.arrived_s)
        told["stages_ms"] = {name: round(took, 4) for name, took in staged.stages_ms.items()}
        times["total"] = staged.answered_s - staged.arrived_s
        return True


TRACES = Traces()
"""Those of this process."""


def _seen(plain: Sequence[Any]) -> _Ran:
    """A record with its names."""
    if len(plain) == _ALONE:
        *numbers, answered_s = plain[:_MATES]
        return _Ran._make([*numbers, [answered_s], [Mate._make(plain[_MATES:])]])
    return _Ran._make([*plain[:_MATES], [Mate._make(mate) for mate in plain[_MATES]]])


def _package(package: PackageId) -> dict[str, Any]:
    return {"package": package.name, "version": package.version, "digest": package.digest}


def _epoch_s() -> float:
    """What makes a time of the monotonic clock one of the wall clock."""
    return time.time() - time.monotonic()


def _at(monotonic_s: float) -> dict[str, Any]:
    return {"arrived_s": monotonic_s + _epoch_s()}


def _times(ran: _Ran, place: int) -> dict[str, float]:
    """Where a request's time went, in seconds; together they are the total."""
    mate, answered_s = ran.mates[place], ran.answered_s[place]
    return {
        "prepare": max(mate.queued_s - mate.arrived_s, 0.0) + ran.prepare_s,
        "queue": max(ran.started_s - mate.queued_s, 0.0),
        "run": ran.run_s - ran.prepare_s,
        "answer": max(answered_s - ran.started_s - ran.run_s, 0.0),
        "total": answered_s - mate.arrived_s,
    }


def _batch(ran: _Ran, place: int) -> dict[str, Any]:
    """With whom a request ran, and how much of what was computed nobody had asked for."""
    mate, mates = ran.mates[place], ran.mates
    told: dict[str, Any] = {
        "requests": len(mates), "mates": len(mates) - 1, "rows": ran.rows, "own_rows": mate.rows,
        "first_row": list(accumulate((one.rows for one in mates), initial=0))[place],
        "mode": "throughput" if ran.source.shapes is None else "invariant",
    }  # fmt: skip
    bucket, length = ran.bucket, max(one.length for one in mates)
    if ran.source.shapes is not None and not length:
        from onward.execute.invariance import passes

        runs = list(passes(ran.bucket, ran.source.shapes.rows.get(0, (1,))))
        bucket = sum(size for _, _, size in runs)
        told["passes"] = len(runs)
    told |= {"bucket": bucket, "padding_rows": bucket - ran.rows}
    if length:
        used = sum(one.rows * one.length for one in mates)
        told |= {"length": mate.length, "length_bucket": length_bucket(length), "padded_length": length}
        told["padding_share"] = round(1 - used / (length * max(bucket, 1)), 4)
    return told
