"""Invariant mode for one package: its shapes, known of this machine or found out now, and what runs batches in them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from onward.errors import NotInvariant
from onward.execute.cores import cores
from onward.execute.host_certificate import certified, host_key
from onward.execute.invariance import InvariantExecution, Run, Shapes
from onward.execute.probing import Row, probe
from onward.execute.scheduler import LENGTH_BUCKETS
from onward.package.manifest import Manifest, Tokenize
from onward.types import TensorSpec

_log = logging.getLogger("onward.execute")
_SAMPLES = 8


def invariant_execution(
    manifest: Manifest, digest: str, providers: Sequence[str], inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec], forward: Run, samples: Callable[[], Sequence[Row]],
) -> InvariantExecution:  # fmt: skip
    """What runs the package's batches; `samples` prepares its golden inputs. Raises `NotInvariant`."""
    batching = manifest.batching
    free = [spec.name for spec in outputs if -1 in spec.shape[1:]]
    if batching.pad and free:
        raise NotInvariant("an output is as long as the longest row", where=free[0], expected="outputs of a fixed size")
    tokens = [step.max_tokens for step in manifest.prepare if isinstance(step, Tokenize)]
    longest = min(tokens, default=manifest.limits.tokens)
    bounds = [*(bound for bound in LENGTH_BUCKETS if bound < longest), longest]

    def find_out() -> Shapes:
        _log.info("%s: finding out, once for this machine, which shapes are invariant", manifest.package.name)
        started_s = time.monotonic()
        shapes = probe(
            inputs, [spec.name for spec in outputs], forward, samples=samples()[:_SAMPLES], pad=batching.pad,
            bounds=bounds, max_rows=batching.max_batch_size,
        )  # fmt: skip
        took_s = time.monotonic() - started_s
        _log.info("%s: invariant shapes found in %.1f s: %s", manifest.package.name, took_s, told(shapes))
        return shapes

    key = host_key(digest, threads=manifest.execute.threads or cores(), providers=providers)
    return InvariantExecution(inputs, batching.pad, certified(key, find_out), forward)


def told(shapes: Shapes) -> str:
    """The shapes in words, for the log."""
    if not shapes.rows:
        return "row by row"
    parts = [f"{', '.join(map(str, sizes))} rows" + (f" of {length}" if length else "")
             for length, sizes in sorted(shapes.rows.items())]  # fmt: skip
    return "; ".join(parts)
