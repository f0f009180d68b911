"""What a scoring job is made of, as frozen records. Knows nothing of files or models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onward.runners.batch.databases import shown

if TYPE_CHECKING:
    import pyarrow as pa

ROW = "_row"
"""The output's first column: which row of the input it answers, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a person asked for. `columns` is {input of the package: column of the source}; `memory_bytes` the budget."""

    package: str
    source: str
    output: str
    query: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    where: str = ""
    limit: int | None = None
    max_rejects: int | None = None
    memory_bytes: int = 1 << 30
    restart: bool = False
    decide: bool = True
    store: str = ""
    actions: Path | None = None
    key_file: Path | None = None
    tenant: str = "default"
    engine: str = "local"
    ray_address: str = ""

    @property
    def source_name(self) -> str:
        """The input as it may be told: without a password."""
        return shown(self.source)

    @property
    def output_name(self) -> str:
        """The output as it may be told."""
        return shown(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the work is cut, found out once and kept: a resumed job must cut it in the same places.

    A text that is asked for without a seed is written from `seed` + the number of its row.
    """

    shard_rows: int
    batch_rows: int
    workers: int
    threads: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row without an answer: which, the input it is about ("": the whole row), why, and the error's code."""

    row: int
    column: str
    reason: str
    code: str


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Some rows of the source, in order: `rows` are their numbers, one for each row of `table`.

    `raw` holds, by place and column, values that do not fit their column's type and are null in the table.
    `broken` are rows that could not even be read as rows. Where only the rows themselves tell whether they are the
    same as before, `digest` is that of all rows up to the last of these, and `before` that without these.
    """

    table: pa.RecordBatch
    rows: Any
    raw: dict[int, dict[str, Any]] = field(default_factory=dict)
    broken: list[Reject] = field(default_factory=list)
    before: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDone:
    """A shard that is durable: its input rows, the answers and rejects among them, and its file's SHA-256.

    `source` is the digest of the input's rows up to its last, where the source tells it.
    """

    index: int
    rows: int
    answers: int
    rejects: int
    digest: str
    source: str = ""
