"""A job's package, input and columns, opened: in the process that runs the job, and in each worker elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from onward.errors import OnwardError, UsageError
from onward.opening import AnyPipeline, open_pipeline
from onward.package.examples import read_examples
from onward.package.package import open_package
from onward.pipeline import Pipeline
from onward.runners.batch.answers import AnswerColumns
from onward.runners.batch.columns import Columns, map_columns
from onward.runners.batch.deciding import Deciding
from onward.runners.batch.media import FILE
from onward.runners.batch.opening import open_source
from onward.runners.batch.records import Job, Plan
from onward.runners.batch.scoring import Scorer
from onward.runners.batch.shards import ShardWork
from onward.runners.batch.source import Source
from onward.runners.batch.where import Condition
from onward.runners.local import DEFAULT_REPOSITORY, find
from onward.streaming import STREAMING_BACKENDS


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedJob:
    """What a job reads, and with what it answers. `keep` are the columns written beside the answers."""

    job: Job
    pipeline: AnyPipeline
    source: Source
    columns: Columns
    condition: Condition | None
    keep: tuple[str, ...]

    @property
    def reads(self) -> list[str]:
        """The columns of the source that are read."""
        condition = self.condition.columns if self.condition else ()
        return list(dict.fromkeys([*self.columns.columns.values(), *self.keep, *condition]))

    def work(self, plan: Plan, deciding: Deciding | None) -> ShardWork:
        """What answers the job's shards."""
        answers = _answers(self.job, self.pipeline)
        scorer = Scorer(
            self.pipeline, self.columns, answers, outputs=self.job.outputs, batch_rows=plan.batch_rows, seed=plan.seed
        )
        return ShardWork(
            scorer, self.columns, answers, source=self.source.schema, keep=self.keep, condition=self.condition,
            deciding=deciding,
        )  # fmt: skip


@contextmanager
def open_job(job: Job) -> Iterator[OpenedJob]:
    """Open package and input. Raises what is wrong with either, or with what was asked for."""
    with _opened(job) as pipeline:
        source = open_source(job.source, pipeline.manifest, job.columns, query=job.query, limit=job.limit)
        yield OpenedJob(
            job=job, pipeline=pipeline, source=source,
            columns=map_columns(job, pipeline.manifest.inputs, source.schema),
            condition=Condition(job.where, source.schema) if job.where else None, keep=_kept(job, source.schema),
        )  # fmt: skip


@contextmanager
def _opened(job: Job) -> Iterator[AnyPipeline]:
    """The package. Cores work on a batch each, so that a graph runs on one thread."""
    path = find(job.package)
    package = open_package(path)
    manifest = package.manifest
    pipeline: AnyPipeline
    if manifest.stages or manifest.execute.backend in STREAMING_BACKENDS or manifest.execute.backend != "onnx":
        pipeline = open_pipeline(path, check=False, repositories=[DEFAULT_REPOSITORY])
    else:
        single = replace(manifest, execute=replace(manifest.execute, threads=1))
        pipeline = Pipeline(replace(package, manifest=single))
    try:
        yield pipeline
    finally:
        pipeline.close()


def _kept(job: Job, schema: pa.Schema) -> tuple[str, ...]:
    keep = tuple(schema.names) if job.keep == ("*",) else job.keep
    for name in keep:
        if name not in schema.names:
            expected = f"one of {', '.join(schema.names[:20])}"
            raise UsageError("the input has no such column", where=f"--keep {name}", expected=expected)
    return (FILE, *keep) if FILE in schema.names and FILE not in keep else keep


def _answers(job: Job, pipeline: AnyPipeline) -> AnswerColumns:
    fetches = pipeline.fetches(job.outputs) if isinstance(pipeline, Pipeline) else ()
    names = {field.name for field in pipeline.manifest.outputs}
    for name in job.outputs:
        if name not in names:
            raise UsageError("the package has no such output", where=f"--outputs {name}", expected=", ".join(names))
    plain = AnswerColumns(pipeline.manifest, fetches, job.outputs, [])
    if plain.of_tensors_only or not isinstance(pipeline, Pipeline):
        return plain
    return AnswerColumns(pipeline.manifest, fetches, job.outputs, _seen(job, pipeline))


def _seen(job: Job, pipeline: Pipeline) -> list[str]:
    """What an answer of the package has, besides what its manifest says."""
    for example in read_examples(pipeline.package.folder):
        try:
            return list(pipeline(example.input, outputs=job.outputs).answer)
        except OnwardError:
            continue
    return []
