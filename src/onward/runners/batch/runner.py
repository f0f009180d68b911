"""`onward batch`: from what a person asked to a finished output, or a clear error and nothing half-written."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pyarrow as pa

from onward import __version__
from onward.act import crash
from onward.runners.batch.databases import shown
from onward.runners.batch.deciding import open_deciding
from onward.runners.batch.durable import write_whole
from onward.runners.batch.errors import JobChanged, SourceUnreadable
from onward.runners.batch.job import Run, digest_of, peek
from onward.runners.batch.journal import Journal
from onward.runners.batch.opened_job import OpenedJob, open_job
from onward.runners.batch.opening import open_output
from onward.runners.batch.output import Output, writing
from onward.runners.batch.plan import tune
from onward.runners.batch.records import Job, Plan
from onward.runners.batch.source import Source

_PEEK_ROWS = 256


def run(job: Job) -> Mapping[str, Any]:
    """Do the job, or what is left of it; returns what `_run.json` says. Raises `OnwardError`."""
    started_s = time.monotonic()
    output = open_output(job.output, job.source)
    with ExitStack() as stack:
        opened = stack.enter_context(open_job(job))
        engine = _engine(opened)
        stack.enter_context(output.locked(job.output_name))
        facts = _facts(opened)
        if (report := _finished(opened, output, facts)) is not None:
            return report
        with writing(output.work):
            output.work.mkdir(exist_ok=True)
        journal = Journal(output.journal)
        stack.callback(journal.close)
        _begin(opened, journal, facts)
        assert journal.head is not None
        digest = _Digest(opened.source, journal)
        run_id, as_of_s = journal.head["run_id"], journal.head["started_s"]
        deciding = stack.enter_context(open_deciding(job, opened.pipeline, run_id=run_id, as_of_s=as_of_s))
        work = opened.work(journal.plan, deciding)
        outcome = engine(job, opened.source, work, output, journal).run()
        report = _report(job, journal, facts, digest.wait(), outcome, time.monotonic() - started_s)
        with writing(output.run):
            write_whole(output.run, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        crash.point("batch.run_written")
        _tidy(output)
    return report


def _engine(opened: OpenedJob) -> type[Run]:
    """Where the shards are answered: in this process, or by Ray."""
    if opened.job.engine == "local":
        return Run
    from onward.runners.batch.ray_engine import RayRun, check

    check(opened)
    return RayRun


def _facts(opened: OpenedJob) -> dict[str, Any]:
    """What makes this job this job: with anything else, its shards would not belong together."""
    job, package = opened.job, opened.pipeline.package.id
    return {
        "package": {"name": package.name, "version": package.version, "digest": package.digest},
        "input": list(opened.source.facts()),
        "options": {
            "columns": dict(opened.columns.columns), "keep": list(opened.keep), "outputs": list(job.outputs),
            "where": job.where,
            "limit": job.limit, "decide": job.decide, "store": shown(job.store), "tenant": job.tenant,
            "actions": job.actions.read_text("utf-8") if job.actions else "",
        },
        "versions": {
            "onward": __version__, "onnxruntime": onnxruntime.__version__, "pyarrow": pa.__version__,
            "numpy": np.__version__, "python": ".".join(map(str, sys.version_info[:3])),
        },
    }  # fmt: skip


def _finished(opened: OpenedJob, output: Output, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The report of the same job where it is finished already; with `restart`, all of it is removed."""
    job, source = opened.job, opened.source
    if job.restart:
        output.clear()
        return None
    if output.run.is_file() and output.exists:
        report: dict[str, Any] = msgspec.json.decode(output.run.read_bytes())
        _same(report["job"], facts, job)
        if source.live and digest_of(source, opened.reads, job.limit) != report["input"]["sha256"]:
            raise _changed("input", job)
        _tidy(output)
        return report | {"repeated": True}
    if output.exists and not output.journal.is_file():
        raise JobChanged(
            "there is something already, and no job that made it", where=job.output_name, expected="--restart"
        )
    return None


def _same(before: Mapping[str, Any], facts: Mapping[str, Any], job: Job) -> None:
    for what, value in facts.items():
        if before.get(what) != value:
            raise _changed(what.removesuffix("s"), job, _difference(before.get(what), value))


def _changed(what: str, job: Job, found: str = "") -> JobChanged:
    return JobChanged(
        f"this output was begun with another {what}", where=job.output_name,
        expected="the same, or --restart to start over", found=found,
    )  # fmt: skip


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return ", ".join(f"{name} {now.get(name)!r} instead of {before.get(name)!r}"[:120] for name in names[:3])
    return ""


def _begin(opened: OpenedJob, journal: Journal, facts: Mapping[str, Any]) -> None:
    """Plan the job and write it down, or see that it is the one that was begun."""
    job, source = opened.job, opened.source
    if journal.head is not None:
        _same(journal.head["job"], facts, job)
        return
    first = peek(source, opened.reads, _PEEK_ROWS)
    plan: Plan = tune(job, opened.pipeline, first, opened.columns.items(first), source.rows)
    head = {"run_id": secrets.token_hex(8), "started_s": time.time(), "plan": msgspec.to_builtins(plan), "job": facts}
    journal.begin(head)
    crash.point("batch.planned")


class _Digest:
    """The input's digest, found out while the job runs."""

    def __init__(self, source: Source, journal: Journal) -> None:
        self._source = source
        self._journal = journal
        self._found: str | BaseException = journal.input_digest
        self._thread = threading.Thread(target=self._read, name="batch-digest", daemon=True)
        if not self._found and not source.live:
            self._thread.start()

    def _read(self) -> None:
        try:
            self._found = self._source.digest()
        except OSError as error:
            self._found = SourceUnreadable(error.strerror or str(error), where=str(error.filename or ""))

    def wait(self) -> str:
        """SHA-256 in hex."""
        if self._source.live:
            return max(self._journal.shards.items())[1].source if self._journal.shards else self._source.digest()
        if self._thread.ident is not None:
            self._thread.join()
        if isinstance(self._found, BaseException):
            raise self._found
        return self._found


def _report(
    job: Job, journal: Journal, facts: Mapping[str, Any], digest: str, outcome: Any, elapsed_s: float
) -> dict[str, Any]:
    assert journal.head is not None
    return {
        "format": 1,
        "run_id": journal.head["run_id"],
        "package": facts["package"],
        "input": {"name": job.source_name, "sha256": digest},
        "output": {"name": job.output_name, "sha256": outcome.digest},
        "rows": outcome.rows,
        "answers": outcome.answers,
        "rejects": outcome.rejects,
        "shards": outcome.shards,
        "plan": journal.head["plan"],
        "started_s": journal.head["started_s"],
        "elapsed_s": round(elapsed_s, 3),
        "rows_per_s": round(outcome.rows_per_s, 1),
        "job": facts,
    }


def _tidy(output: Output) -> None:
    """The job is whole: its folder is of no use any more."""
    if output.work.is_dir():
        for path in sorted(output.work.iterdir(), key=lambda path: path == output.journal):
            path.unlink()
        output.work.rmdir()
