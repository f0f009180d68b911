"""The same job on a Ray cluster: Ray Data hands shards to actors, this process journals and writes what they answer.

Plan, shards and answers are those of a job without Ray, so that either goes on with what the other began. An actor
opens package and input by itself and reads its shard's rows, wherever it runs: both must be there under the same name.
What a worker held that died, Ray gives to another. Needs the extra `ray`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from onward.errors import ExecutionError, MissingExtra, OnwardError, UsageError
from onward.package.trust import TRUST_VARIABLE
from onward.runners.batch.deciding import open_deciding
from onward.runners.batch.job import Run
from onward.runners.batch.opened_job import OpenedJob, open_job
from onward.runners.batch.records import Chunk, Job, Plan, Reject, ShardDone
from onward.runners.local import find

_CONNECT_S = 5.0
_LOOPBACK = "127.0.0.1"


def check(opened: OpenedJob) -> None:
    """Raise `UsageError` for what cannot be shared out, `MissingExtra` without Ray."""
    if opened.source.rows is None or opened.source.live:
        raise UsageError(
            "workers must be able to begin anywhere in the input", where="--engine ray",
            expected="Parquet or Arrow files, or a folder of images, sound or texts", found=opened.job.source_name,
        )  # fmt: skip
    if opened.job.store:
        raise UsageError("decisions are recorded by jobs of this machine only", where="--store", found="--engine ray")
    _ray()


class RayRun(Run):
    """A job whose shards are answered elsewhere."""

    def _threads(self) -> list[threading.Thread]:
        return [threading.Thread(target=self._follow, name="batch-ray", daemon=True)]

    def _follow(self) -> None:
        try:
            total = -(-(self._total() or 0) // self._plan.shard_rows)
            missing = [index for index in range(total) if index not in self._journal.shards]
            if missing:
                with _cluster(self._job.ray_address) as workers:
                    for answered in self._answered(missing, workers):
                        if self._stopped.is_set():
                            return
                        self._told.put(self._written(answered))
            self._told.put(total)
        except BaseException as error:
            self._told.put(error)

    def _answered(self, missing: list[int], workers: int) -> Iterator[Mapping[str, Any]]:
        assert self._journal.head is not None
        ray = _ray()
        job = replace(self._job, package=str(find(self._job.package).resolve()), source=_everywhere(self._job.source))
        workers = min(workers, len(missing))
        shards = ray.data.from_items([{"index": index} for index in missing], override_num_blocks=len(missing))
        answers = shards.map(
            ShardActor, fn_constructor_args=(job, dict(self._journal.head)), num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=workers), **_trusting(),
        )  # fmt: skip
        try:
            yield from answers.iter_rows()
        except ray.exceptions.RayError as error:
            raise ExecutionError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from error

    def _written(self, answered: Mapping[str, Any]) -> ShardDone:
        if answered["error"]:
            raise _raised(answered["error"])
        table = pa.ipc.open_stream(answered["table"]).read_all()
        rejects = msgspec.json.decode(answered["rejects"], type=list[Reject])
        digest = self._output.write_shard(answered["index"], table, rejects)
        return ShardDone(
            index=answered["index"], rows=answered["rows"], answers=table.num_rows, rejects=len(rejects), digest=digest
        )


class ShardActor:
    """Answers one shard after another, on one core of whatever machine it runs on."""

    def __init__(self, job: Job, head: Mapping[str, Any]) -> None:
        self._plan = msgspec.convert(head["plan"], Plan)
        self._stack = ExitStack()
        self._opened = self._stack.enter_context(open_job(job))
        deciding = open_deciding(job, self._opened.pipeline, run_id=head["run_id"], as_of_s=head["started_s"])
        self._work = self._opened.work(self._plan, self._stack.enter_context(deciding))

    def __call__(self, shard: Mapping[str, Any]) -> dict[str, Any]:
        """The shard's table as an Arrow stream and its rejects as JSON; or an error, as JSON."""
        index = int(shard["index"])
        try:
            chunk = self._chunk(index)
            table, rejects = self._work.answer(chunk)
        except OnwardError as error:
            told = {"code": error.code, "message": error.message, "where": error.where, "expected": error.expected,
                    "found": error.found}  # fmt: skip
            return {"index": index, "rows": 0, "table": b"", "rejects": b"", "error": msgspec.json.encode(told)}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {
            "index": index, "rows": chunk.table.num_rows + len(chunk.broken), "table": sink.getvalue().to_pybytes(),
            "rejects": msgspec.json.encode(rejects), "error": b"",
        }  # fmt: skip

    def _chunk(self, index: int) -> Chunk:
        start = index * self._plan.shard_rows
        chunk = next(iter(self._opened.source.chunks(self._work.reads, self._plan.shard_rows, start=start)))
        limit = self._opened.job.limit
        if limit is not None and int(np.asarray(chunk.rows)[-1]) >= limit:
            return self._work.before(chunk, limit)
        return chunk


@contextmanager
def _cluster(address: str) -> Iterator[int]:
    """The number of the cluster's cores; one that is started here ends here."""
    ray = _ray()
    begun = not ray.is_initialized()
    if begun:
        _begin(ray, address)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if begun:
            ray.shutdown()


def _begin(ray: Any, address: str) -> None:
    if not address:
        ray.init(
            address="local", include_dashboard=False, log_to_driver=False, logging_level="error",
            _node_ip_address=_LOOPBACK,
        )  # fmt: skip
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()  # Ray itself tries for minutes
        here = {"_node_ip_address": host} if host.startswith("127.") else {}
        ray.init(address=address, log_to_driver=False, logging_level="error", **here)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        expected = "HOST:PORT of a cluster that runs"
        raise UsageError(f"no Ray cluster: {first}", where="--ray-address", expected=expected, found=address) from None


def _ray() -> Any:
    # What it says of itself would hide the progress line, and is in its own log files.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtra("this needs Ray", expected="pip install 'onward[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _trusting() -> dict[str, Any]:
    """What makes workers, wherever they run, take only the packages that this process takes."""
    keys = os.environ.get(TRUST_VARIABLE)
    return {"runtime_env": {"env_vars": {TRUST_VARIABLE: keys}}} if keys else {}


def _everywhere(source: str) -> str:
    """An input's name as any process of this machine understands it; a pattern's, too."""
    return source if Path(source).is_absolute() else str(Path.cwd() / source)


def _raised(error: bytes) -> OnwardError:
    """A worker's error, as it was there."""
    told = msgspec.json.decode(error)
    kinds: list[type[OnwardError]] = [OnwardError]
    for kind in kinds:  # grows while it is gone through
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == told["code"]), ExecutionError)
    return kind(told["message"], where=told["where"], expected=told["expected"], found=told["found"])
