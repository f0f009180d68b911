"""A scoring job, from the first row to the last: the story of `onward batch`.

One thread reads, as many as there are cores answer and write shards, and this one journals them and puts the output
together. Memory is bounded by what is between them: a few shards of rows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from onward.act import crash
from onward.runners.batch.errors import JobChanged, TooManyRejects
from onward.runners.batch.journal import Journal
from onward.runners.batch.output import Assembling, Output
from onward.runners.batch.progress import Progress
from onward.runners.batch.records import Chunk, Job, Plan, ShardDone
from onward.runners.batch.shards import ShardWork
from onward.runners.batch.source import Source

_POLL_S = 0.1
_DIGEST_ROWS = 4096

Told: TypeAlias = ShardDone | int | BaseException
"""What the threads tell: a shard is written, there are so many shards, or something failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job's rows."""

    digest: str
    shards: int
    rows: int
    answers: int
    rejects: int
    rows_per_s: float


class Run:
    """The threads of one job."""

    def __init__(self, job: Job, source: Source, work: ShardWork, output: Output, journal: Journal) -> None:
        self._job = job
        self._source = source
        self._work = work
        self._output = output
        self._journal = journal
        assert journal.head is not None
        self._plan: Plan = journal.plan
        self._run_id: str = journal.head["run_id"]
        self._ready: queue.Queue[tuple[int, Chunk] | None] = queue.Queue(maxsize=self._plan.workers)
        self._told: queue.Queue[Told] = queue.Queue()
        self._stopped = threading.Event()

    def run(self) -> Outcome:
        """Do what is left to do. Raises what failed; what is durable stays so."""
        done = dict(self._journal.shards)
        progress = Progress(self._total(), done=sum(shard.rows for shard in done.values()))
        assembly = self._output.assemble(self._work.schema, self._run_id)
        threads = self._threads()
        for thread in threads:
            thread.start()
        try:
            shards = self._collect(assembly, progress)
            self._output.collect_rejects(shards)
            digest = assembly.finish()
        except BaseException:
            assembly.abandon()
            raise
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()
            progress.end()
        found = [self._journal.shards[index] for index in range(shards)]
        return Outcome(
            digest=digest, shards=shards, rows=sum(one.rows for one in found),
            answers=sum(one.answers for one in found), rejects=sum(one.rejects for one in found),
            rows_per_s=progress.rows_per_s,
        )  # fmt: skip

    def _threads(self) -> list[threading.Thread]:
        """Those that read and answer, and tell of it."""
        threads = [threading.Thread(target=self._read, name="batch-read", daemon=True)]
        for number in range(self._plan.workers):
            threads.append(threading.Thread(target=self._answer, name=f"batch-work-{number}", daemon=True))
        return threads

    def _collect(self, assembly: Assembling, progress: Progress) -> int:
        """Journal the shards as they come, add them in order; returns how many there are."""
        shards: int | None = None
        rejects = sum(shard.rejects for shard in self._journal.shards.values())
        while True:
            self._check(rejects)
            while (next_shard := self._journal.shards.get(assembly.added)) is not None:
                assembly.add(next_shard.digest)
            if shards is not None and assembly.added >= shards:
                return shards
            told = self._told.get()
            if isinstance(told, BaseException):
                raise told
            if isinstance(told, int):
                shards = told
                continue
            self._journal.commit(told)
            crash.point("batch.shard_committed")
            rejects += told.rejects
            progress.add(told.rows, told.rejects)

    def _check(self, rejects: int) -> None:
        most = self._job.max_rejects
        if most is not None and rejects > most:
            self._output.collect_rejects(max(self._journal.shards, default=-1) + 1)
            raise TooManyRejects(where=str(self._output.rejects), expected=f"at most {most}", found=f"{rejects} so far")

    def _total(self) -> int | None:
        rows, limit = self._source.rows, self._job.limit
        if rows is None:
            return limit
        return rows if limit is None else min(rows, limit)

    def _read(self) -> None:
        try:
            first = next(index for index in range(len(self._journal.shards) + 1) if index not in self._journal.shards)
            shards = first
            for index, chunk in enumerate(self._chunks(first), first):
                shards = index + 1
                self._compare(index, chunk)
                if index not in self._journal.shards and not self._put((index, chunk)):
                    return
            self._told.put(shards)
        except BaseException as error:
            self._told.put(error)
        finally:
            for _ in range(self._plan.workers):
                self._put(None)

    def _compare(self, index: int, chunk: Chunk) -> None:
        """Rows that only tell themselves whether they are the same must be those that were read before."""
        known = self._journal.shards
        for number, digest in ((index - 1, chunk.before), (index, chunk.digest)):
            if number in known and digest and known[number].source != digest:
                raise JobChanged(
                    "this output was begun with other rows, or in another order", where=self._job.output_name,
                    expected="the same, or --restart to start over",
                )  # fmt: skip

    def _chunks(self, first: int) -> Iterator[Chunk]:
        """The shards' rows, from the first that is missing on."""
        size, limit = self._plan.shard_rows, self._job.limit
        start = first * size
        for chunk in self._source.chunks(self._work.reads, size, start=start):
            if limit is None:
                yield chunk
                continue
            if start >= limit:
                return
            start += size
            yield chunk if start <= limit else self._work.before(chunk, limit)

    def _put(self, what: tuple[int, Chunk] | None) -> bool:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._ready.put(what, timeout=_POLL_S)
                return True
        return False

    def _answer(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    found = self._ready.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if found is None:
                    return
                self._told.put(self._shard(*found))
        except BaseException as error:
            self._told.put(error)

    def _shard(self, index: int, chunk: Chunk) -> ShardDone:
        count = chunk.table.num_rows + len(chunk.broken)
        table, rejects = self._work.answer(chunk)
        crash.point("batch.shard_scored")
        digest = self._output.write_shard(index, table, rejects)
        return ShardDone(
            index=index, rows=count, answers=table.num_rows, rejects=len(rejects), digest=digest, source=chunk.digest
        )


def peek(source: Source, columns: list[str], rows: int) -> Chunk:
    """The first rows of a source, to plan by."""
    with closing(_generator(source, columns, rows)) as chunks:
        for chunk in chunks:
            return chunk
    empty = pa.RecordBatch.from_pylist([], schema=pa.schema([source.schema.field(name) for name in columns]))
    return Chunk(table=empty, rows=[])


def digest_of(source: Source, columns: list[str], limit: int | None) -> str:
    """The digest of a live source's rows."""
    digest = ""
    size = max(min(_DIGEST_ROWS, limit or _DIGEST_ROWS), 1)
    start = 0
    for chunk in source.chunks(columns, size):
        if limit is not None and start >= limit:
            break
        digest, start = chunk.digest, start + size
    return digest or source.digest()


def _generator(source: Source, columns: list[str], rows: int) -> Generator[Chunk, None, None]:
    yield from source.chunks(columns, rows)


def elapsed(started_s: float) -> float:
    """Seconds since then, to the millisecond."""
    return round(time.monotonic() - started_s, 3)
