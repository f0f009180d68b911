"""How fast a package is here, measured at warm-up: it decides what may run on the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from onward.errors import ExecutionError
from onward.pipeline import Pipeline
from onward.types import Item, Prepared

# A hand-over to a thread and back costs about a tenth of this under load, and the GIL's hand-over more.
INLINE_BELOW_S = 200e-6
_MEASURED_RUNS = 5


class Speed:
    """What warm-up measured, in seconds: a forward pass (of a full batch, where that is quick) and one preparation."""

    def __init__(self, pipeline: Pipeline, items: Sequence[Item]) -> None:
        prepared: list[Prepared] = []
        self.prepare_s = 0.0 if items else INLINE_BELOW_S
        for item in items:
            self.prepare_s = max(self.prepare_s, _best_s(partial(pipeline.prepare, item)))
            prepared.append(pipeline.prepare(item))
        longest = max(prepared, key=lambda one: one.length, default=None)
        try:
            self.batch_s = _batch_s(pipeline, longest or pipeline.blank())
        except ExecutionError:
            if longest is not None:
                raise
            self.batch_s = INLINE_BELOW_S  # zeros are no input for this model: its first callers warm it up


def _batch_s(pipeline: Pipeline, item: Prepared) -> float:
    """A forward pass over a full batch of the item; over one row, where that is slow already."""
    best_s = 0.0
    for rows in (1, pipeline.manifest.batching.max_batch_size):
        feeds = pipeline.collate([item.tensors] * rows, [1] * rows, bucket=rows)
        best_s = _best_s(partial(pipeline.run, feeds, pipeline.default_fetches))
        if best_s > INLINE_BELOW_S:
            break
    return best_s


def _best_s(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_MEASURED_RUNS):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
        if best > 10 * INLINE_BELOW_S:
            break
    return best
