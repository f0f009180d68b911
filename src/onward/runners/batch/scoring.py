"""One chunk of rows → columns of answers and rejects: prepare → execute → generate → decide, as every runner does it.

Rows that cannot be answered are rejects; a batch that fails is run again row by row, so that one row fails alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from onward.errors import OnwardError
from onward.opening import AnyPipeline
from onward.pipeline import Pipeline
from onward.prepare.profile import Profile
from onward.runners.batch.answers import AnswerColumns
from onward.runners.batch.columns import Columns
from onward.runners.batch.matrix import MatrixPreparation
from onward.runners.batch.records import Chunk, Reject
from onward.streaming import StreamingPipeline
from onward.types import Array, Item, Prepared, Result

_INDEX = re.compile(r"^\[(\d+)\] ?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The answers of a chunk: `places` are the rows of its table that have one, in order, and `columns` those."""

    places: Array
    columns: list[pa.Array]
    rejects: list[Reject]
    answers: Sequence[Mapping[str, Any]] | None = None


class Scorer:
    """Answers chunks with a package. Safe to use from several threads where the package's backend is."""

    def __init__(
        self,
        pipeline: AnyPipeline,
        columns: Columns,
        answers: AnswerColumns,
        *,
        outputs: Sequence[str],
        batch_rows: int,
        seed: int = 0,
    ) -> None:
        """Texts asked for without a seed are written from `seed` + the number of their row."""
        self._pipeline = pipeline
        self._columns = columns
        self._answers = answers
        self._outputs = tuple(outputs)
        self._batch_rows = batch_rows
        self._seed = seed
        self._matrix = MatrixPreparation.of(pipeline, columns.columns) if isinstance(pipeline, Pipeline) else None
        self._fetches = pipeline.fetches(outputs) if isinstance(pipeline, Pipeline) else ()

    def score(self, chunk: Chunk, profiles: Callable[[Sequence[Mapping[str, Any]]], Sequence[Profile]] | None = None
              ) -> Scored:  # fmt: skip
        """Answer the chunk's rows; `profiles` reads what is known of the entities of items."""
        if not chunk.table.num_rows:
            return Scored(places=np.zeros(0, np.int64), columns=self._answers.from_answers([]), rejects=chunk.broken)
        if self._matrix is not None and isinstance(self._pipeline, Pipeline):
            return self._by_matrix(self._pipeline, self._matrix, chunk)
        if isinstance(self._pipeline, Pipeline):
            return self._by_item(self._pipeline, chunk, profiles)
        return self._whole(self._pipeline, chunk)

    def _by_matrix(self, pipeline: Pipeline, matrix: MatrixPreparation, chunk: Chunk) -> Scored:
        rows, doubt = matrix(chunk.table)
        for place in chunk.raw:
            doubt[place] = True
        failed: dict[int, OnwardError] = {}
        doubtful = np.flatnonzero(doubt).tolist()
        for place, item in zip(doubtful, self._columns.items(chunk, doubtful) if doubtful else (), strict=True):
            try:
                rows[place] = pipeline.prepare(item).tensors[matrix.output][0]
            except OnwardError as error:
                failed[place] = error
        places = np.flatnonzero(_all_but(len(rows), failed))
        taken = rows if not failed else rows[places]
        good, tensors = self._execute_matrix(pipeline, matrix.output, taken, places, failed)
        return self._scored(chunk, good, tensors, failed)

    def _execute_matrix(
        self, pipeline: Pipeline, name: str, rows: Array, places: Array, failed: dict[int, OnwardError]
    ) -> tuple[Array, list[Array]]:
        """Run the rows in batches: the places that have outputs, and those of each fetched tensor."""
        parts: list[list[Array]] = []
        good: list[Array] = []
        for start in range(0, len(rows), self._batch_rows):
            batch, at = rows[start : start + self._batch_rows], places[start : start + self._batch_rows]
            try:
                parts.append(pipeline.run({name: batch}, self._fetches))
                good.append(at)
            except OnwardError:
                for index, place in enumerate(at.tolist()):
                    try:
                        parts.append(pipeline.run({name: batch[index : index + 1]}, self._fetches))
                        good.append(at[index : index + 1])
                    except OnwardError as error:
                        failed[place] = error
        if not parts:
            return np.zeros(0, np.int64), []
        return np.concatenate(good), [np.concatenate(tensors) for tensors in zip(*parts, strict=True)]

    def _scored(self, chunk: Chunk, good: Array, tensors: list[Array], failed: Mapping[int, OnwardError]) -> Scored:
        rejects = _rejects(chunk, failed)
        if not tensors:
            return Scored(places=good, columns=self._answers.from_answers([]), rejects=rejects)
        if self._answers.of_tensors_only:
            return Scored(places=good, columns=self._answers.from_tensors(tensors), rejects=rejects)
        asked = frozenset(self._outputs)
        generate = self._pipeline.generate  # type: ignore[union-attr]
        answers = [
            generate({name: tensor[row : row + 1] for name, tensor in zip(self._fetches, tensors, strict=True)}, asked)
            for row in range(len(good))
        ]
        return Scored(places=good, columns=self._answers.from_answers(answers), rejects=rejects, answers=answers)

    def _by_item(
        self, pipeline: Pipeline, chunk: Chunk,
        profiles: Callable[[Sequence[Mapping[str, Any]]], Sequence[Profile]] | None,
    ) -> Scored:  # fmt: skip
        items = self._columns.items(chunk)
        known: Sequence[Profile | None] = profiles(items) if profiles is not None else [None] * len(items)
        failed: dict[int, OnwardError] = {}
        prepared: list[tuple[int, Prepared]] = []
        for place, (item, profile) in enumerate(zip(items, known, strict=True)):
            try:
                prepared.append((place, pipeline.prepare(item, profile)))
            except OnwardError as error:
                failed[place] = error
        # Neighbours of like length share a batch: padding costs as much as what it pads.
        prepared.sort(key=lambda pair: (pair[1].length, pair[0]))
        rows: dict[int, list[Array]] = {}
        for start in range(0, len(prepared), self._batch_rows):
            group = prepared[start : start + self._batch_rows]
            try:
                found = pipeline.execute([one for _, one in group], self._fetches)
                rows |= {place: tensors for (place, _), tensors in zip(group, found, strict=True)}
            except OnwardError:
                for place, one in group:
                    try:
                        rows[place] = pipeline.execute([one], self._fetches)[0]
                    except OnwardError as error:
                        failed[place] = error
        return self._answered(pipeline, chunk, items, rows, failed)

    def _answered(
        self,
        pipeline: Pipeline,
        chunk: Chunk,
        items: Sequence[Item],
        rows: Mapping[int, list[Array]],
        failed: dict[int, OnwardError],
    ) -> Scored:
        answers = []
        good = []
        for place in sorted(rows):
            try:
                tensors = dict(zip(self._fetches, rows[place], strict=True))
                answers.append(pipeline.generate(tensors, frozenset(self._outputs), items[place]))
                good.append(place)
            except OnwardError as error:
                failed[place] = error
        columns = self._answers.from_answers(answers)
        rejects = _rejects(chunk, failed)
        return Scored(places=np.array(good, np.int64), columns=columns, rejects=rejects, answers=answers)

    def _whole(self, pipeline: Any, chunk: Chunk) -> Scored:
        """For packages whose engine, or whose stages, batch by themselves."""
        items = self._columns.items(chunk)
        failed: dict[int, OnwardError] = {}
        answers: dict[int, Mapping[str, Any]] = {}
        for start in range(0, len(items), self._batch_rows):
            group = list(range(start, min(start + self._batch_rows, len(items))))
            found = self._group(pipeline, items, group, failed, chunk.rows)
            answers |= {place: result.answer for place, result in found.items()}
        good = sorted(answers)
        columns = self._answers.from_answers([answers[place] for place in good])
        return Scored(
            places=np.array(good, np.int64), columns=columns, rejects=_rejects(chunk, failed),
            answers=[answers[place] for place in good],
        )  # fmt: skip

    def _group(
        self,
        pipeline: Any,
        items: Sequence[Mapping[str, Any]],
        group: list[int],
        failed: dict[int, OnwardError],
        rows: Any,
    ) -> dict[int, Result]:
        """The results of items run together; who does not even fit is taken out, and the others go on."""
        while group:
            try:
                results = self._batch(pipeline, items, group, rows)
                return dict(zip(group, results, strict=True))
            except OnwardError as error:
                named = _INDEX.match(error.where)
                if named is None or len(group) == 1:
                    break
                error.where = error.where[named.end() :]
                failed[group.pop(int(named[1]))] = error
        found = {}
        for place in group:
            try:
                found[place] = self._batch(pipeline, items, [place], rows)[0]
            except OnwardError as error:
                failed[place] = error
        return found

    def _batch(self, pipeline: Any, items: Sequence[Mapping[str, Any]], group: list[int], rows: Any) -> list[Result]:
        wanted = [items[place] for place in group]
        if not isinstance(pipeline, StreamingPipeline):
            return list(pipeline.batch(wanted, outputs=self._outputs))
        seeds = [(self._seed + int(rows[place])) % (1 << 31) for place in group]
        return pipeline.batch(wanted, outputs=self._outputs, seeds=seeds)


def _all_but(count: int, failed: Mapping[int, object]) -> Array:
    kept = np.ones(count, bool)
    kept[list(failed)] = False
    return kept


def _rejects(chunk: Chunk, failed: Mapping[int, OnwardError]) -> list[Reject]:
    """The chunk's rejects in the order of its rows."""
    found = [
        Reject(row=int(chunk.rows[place]), column=error.where, reason=str(error), code=error.code)
        for place, error in failed.items()
    ]
    return sorted([*chunk.broken, *found], key=lambda reject: reject.row)
