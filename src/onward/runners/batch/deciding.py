"""Decisions of a job: computed beside the answers or, with a store, recorded with their actions, each once.

The rows of one request share an idempotency key made of the run and its first row: a resumed job asks again under the
same keys, and is told what was recorded the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from onward.decide.policy import Facts
from onward.package.package import Package
from onward.pipeline import Pipeline
from onward.prepare.profile import Profile
from onward.runners.batch.cells import as_json_text
from onward.runners.batch.records import Job

if TYPE_CHECKING:
    from onward.act.desk import Desk, Recorded, Ruling
    from onward.store.profiles import Profiles

_TOGETHER = 256
_FIELDS = (
    pa.field("decision", pa.string()),
    pa.field("decision_rule", pa.string()),
    pa.field("decision_reasons", pa.list_(pa.string())),
    pa.field("decision_arguments", pa.string()),
)
_RECORDED = (pa.field("decision_id", pa.string()), pa.field("decision_actions", pa.string()))


class Deciding:
    """Decides as of the time at which the job began, so that a resumed one decides alike."""

    fields: Sequence[pa.Field] = _FIELDS

    def __init__(self, pipeline: Pipeline, *, as_of_s: float) -> None:
        self._pipeline = pipeline
        self._as_of_s = as_of_s

    profiles: Any = None
    """Reads the profiles of items, where there is a store and the package looks at any."""

    def decide(self, items: Sequence[Mapping[str, Any]], answers: Sequence[Any], rows: Sequence[int]) -> list[pa.Array]:
        """The columns of the decisions, one for each item."""
        policy = self._pipeline.policy
        assert policy is not None
        decisions = [policy.decide(self._facts(item, answer)) for item, answer in zip(items, answers, strict=True)]
        return _columns(decisions)

    def _facts(self, item: Mapping[str, Any], answer: Mapping[str, Any], profile: Profile | None = None) -> Facts:
        known = self._pipeline.profile(item, profile)
        return Facts(answer=_shown(answer), input=item, profile=known, now_s=self._as_of_s)


class Recording(Deciding):
    """The same through the desk of a store: audited, counted, and with its actions in the outbox."""

    fields = (*_FIELDS, *_RECORDED)

    def __init__(
        self, pipeline: Pipeline, *, as_of_s: float, run_id: str, desk: Desk, ruling: Ruling, profiles: Profiles,
        tenant: str,
    ) -> None:  # fmt: skip
        super().__init__(pipeline, as_of_s=as_of_s)
        self._run_id = run_id
        self._desk = desk
        self._ruling = ruling
        self._profiles = profiles
        self._tenant = tenant
        source = pipeline.manifest.profile
        self._entity = source.entity if source is not None else ""

    def decide(self, items: Sequence[Mapping[str, Any]], answers: Sequence[Any], rows: Sequence[int]) -> list[pa.Array]:
        """See `Deciding`; what is returned is durable."""
        from onward.act.desk import Case

        futures = []
        for start in range(0, len(items), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            cases = [
                Case(facts=self._facts(item, answer, self._known(item)), entity=str(item.get(self._entity) or ""))
                for item, answer in zip(items[part], answers[part], strict=True)
            ]
            key = f"batch/{self._run_id}/{rows[start]}"
            futures.append(self._desk.record(self._ruling, cases, tenant=self._tenant, idempotency_key=key))
        recorded = [one for future in futures for one in future.result()]
        return [*_columns([one.decision for one in recorded]), *_recorded_columns(recorded)]

    def _known(self, item: Mapping[str, Any]) -> Profile | None:
        features = self._pipeline.prepare.features
        entity = features.entity(item) if features is not None else ""
        if features is None or not entity:
            return None
        return self._profiles.read(self._tenant, entity, features, as_of_s=self._as_of_s)


@contextmanager
def open_deciding(job: Job, pipeline: Any, *, run_id: str, as_of_s: float) -> Iterator[Deciding | None]:
    """What decides for a job; None where nothing does."""
    if not job.decide or not isinstance(pipeline, Pipeline) or pipeline.policy is None:
        yield None
        return
    if not job.store:
        yield Deciding(pipeline, as_of_s=as_of_s)
        return
    from onward.act.desk import Desk, Ruling
    from onward.act.targets import Targets, load_targets
    from onward.decide.audit import note_erasure
    from onward.decide.rules import Rules
    from onward.runners.installation import open_keys, open_store
    from onward.store.profiles import Profiles
    from onward.store.writer import Writer

    rules = pipeline.policy
    assert isinstance(rules, Rules)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(job.store, make=True))
        writer = Writer(store)
        stack.callback(writer.close)
        keys = open_keys(job.store, job.key_file)
        targets = load_targets(job.actions) if job.actions else Targets.none()
        yield Recording(
            pipeline, as_of_s=as_of_s, run_id=run_id, desk=Desk(writer, keys, targets),
            ruling=_ruling(pipeline.package, rules, Ruling),
            profiles=Profiles(store, writer, note_erasure=note_erasure), tenant=job.tenant,
        )  # fmt: skip


def _ruling(package: Package, rules: Any, kind: type[Ruling]) -> Ruling:
    fields = (*package.manifest.inputs, *package.manifest.outputs)
    return kind(
        package=package.id, rules=rules, private=frozenset(field.name for field in fields if field.private),
        fields=frozenset(field.name for field in package.manifest.inputs),
    )  # fmt: skip


def _columns(decisions: Sequence[Any]) -> list[pa.Array]:
    return [
        pa.array([one.outcome for one in decisions], pa.string()),
        pa.array([one.rule for one in decisions], pa.string()),
        pa.array([list(one.reasons) for one in decisions], pa.list_(pa.string())),
        pa.array([as_json_text(dict(one.arguments)) for one in decisions], pa.string()),
    ]


def _recorded_columns(recorded: Sequence[Recorded]) -> list[pa.Array]:
    # Not where an action stands: that changes, and a resumed job would say something else.
    actions = [as_json_text([{"id": one.action_id, "name": one.name} for one in each.actions]) for each in recorded]
    return [pa.array([one.decision_id for one in recorded], pa.string()), pa.array(actions, pa.string())]


def _shown(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer as a policy sees it: bytes are nothing to decide on."""
    return {name: value for name, value in answer.items() if not isinstance(value, bytes) and value is not None}
