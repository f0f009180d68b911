"""One shard's work: which of its rows are wanted, their answers, decisions and kept columns, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from onward.errors import UsageError, WrongDatatype
from onward.runners.batch.answers import AnswerColumns
from onward.runners.batch.cells import JSON_CONTENT
from onward.runners.batch.columns import Columns
from onward.runners.batch.deciding import Deciding
from onward.runners.batch.records import ROW, Chunk, Reject
from onward.runners.batch.scoring import Scorer
from onward.runners.batch.texts import kept_text
from onward.runners.batch.where import Condition


class ShardWork:
    """From a chunk of rows to the table of its answers, and its rejects. Used by several threads at once."""

    def __init__(
        self, scorer: Scorer, columns: Columns, answers: AnswerColumns, *, source: pa.Schema, keep: Sequence[str],
        condition: Condition | None, deciding: Deciding | None,
    ) -> None:  # fmt: skip
        """Raises `UsageError` where two columns of the output would have one name."""
        self._scorer = scorer
        self._columns = columns
        self._keep = tuple(keep)
        self._condition = condition
        self._deciding = deciding
        wanted = [*columns.columns.values(), *keep, *(condition.columns if condition else ())]
        self.reads = list(dict.fromkeys(wanted))
        fields = [pa.field(ROW, pa.int64())]
        fields += [pa.field(name, source.field(name).type) for name in keep]
        fields += [
            pa.field(column.name, column.type, metadata=JSON_CONTENT if column.json else None)
            for column in answers.columns
        ]
        fields += list(deciding.fields) if deciding is not None else []
        names = [field.name for field in fields]
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice:
            raise UsageError("a kept column has the name of an output", where=f"--keep {twice}")
        self.schema = pa.schema(fields)

    def answer(self, chunk: Chunk) -> tuple[pa.Table, list[Reject]]:
        """The table, with the schema of all, and the rejects in order."""
        chunk = self._keepable(self._wanted(chunk))
        profiles = self._deciding.profiles if self._deciding is not None else None
        scored = self._scorer.score(chunk, profiles)
        numbers = np.asarray(chunk.rows, np.int64)[scored.places]
        whole = len(scored.places) == chunk.table.num_rows
        table = chunk.table if whole else chunk.table.take(pa.array(scored.places, pa.int64()))
        kept = [self._kept(chunk, table, name, scored.places) for name in self._keep]
        columns = [pa.array(numbers), *kept, *scored.columns]
        if self._deciding is not None:
            answers: Sequence[Any]
            if scored.answers is not None:
                answers = scored.answers
            else:
                fields = self.schema.names[1 + len(kept) : 1 + len(kept) + len(scored.columns)]
                answers = pa.RecordBatch.from_arrays(scored.columns, names=fields).to_pylist()
            items = self._columns.items(chunk, scored.places.tolist())
            columns += self._deciding.decide(items, answers, numbers.tolist())
        return pa.table(columns, schema=self.schema), scored.rejects

    def before(self, chunk: Chunk, row: int) -> Chunk:
        """The rows of a chunk before a row's number."""
        kept = _at(chunk, np.flatnonzero(np.asarray(chunk.rows) < row))
        kept.broken = [reject for reject in chunk.broken if reject.row < row]
        return kept

    def _wanted(self, chunk: Chunk) -> Chunk:
        if self._condition is None or not chunk.table.num_rows:
            return chunk
        return _at(chunk, self._condition.places(chunk.table))

    def _keepable(self, chunk: Chunk) -> Chunk:
        """Without the rows whose kept values do not fit their column."""
        broken = []
        for place, misfits in chunk.raw.items():
            for name in self._keep:
                if name in misfits and not pa.types.is_string(self.schema.field(name).type):
                    broken.append((place, name, misfits[name]))
                    break
        if not broken:
            return chunk
        gone = {place for place, _, _ in broken}
        kept = _at(chunk, np.array([place for place in range(chunk.table.num_rows) if place not in gone], np.int64))
        for place, name, value in broken:
            expected = f"{self.schema.field(name).type}, as the first rows have"
            error = WrongDatatype(where=name, expected=expected, found=repr(value)[:60])
            kept.broken.append(
                Reject(row=int(chunk.rows[place]), column=name, reason=str(error), code=WrongDatatype.code)
            )
        return kept

    def _kept(self, chunk: Chunk, table: pa.RecordBatch, name: str, places: Any) -> pa.Array:
        column = table.column(name)
        if not any(name in misfits for misfits in chunk.raw.values()):
            return column
        values = column.to_pylist()
        for index, place in enumerate(places.tolist()):
            misfits = chunk.raw.get(place, {})
            if name in misfits:
                values[index] = kept_text(misfits[name])
        return pa.array(values, pa.string())


def _at(chunk: Chunk, places: Any) -> Chunk:
    """Some of a chunk's rows."""
    if len(places) == chunk.table.num_rows:
        return chunk
    raw = {}
    if chunk.raw:
        raw = {new: chunk.raw[old] for new, old in enumerate(places.tolist()) if old in chunk.raw}
    table = chunk.table.take(pa.array(places, pa.int64()))
    return Chunk(table=table, rows=np.asarray(chunk.rows)[places], raw=raw, broken=list(chunk.broken))
