"""A comparison holds where every bound does, and says which does not."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest

from onward.errors import BeyondBounds
from onward.runners.endpoints.report import MOST_TOLD, Agreement, Apart, Bounds, Comparison, Side

SIDE = Side(
    url="http://h/a", form="v2", requests=10, failures={}, per_s=5, p50_ms=1, p95_ms=2, p99_ms=4, p99_ms_rounds=[4]
)


def comparison(agreement: Agreement, bounds: Bounds, *, p99_ms: float = 4) -> Comparison:
    new = replace(SIDE, p99_ms=p99_ms)
    return Comparison(
        old=SIDE, new=new, agreement=agreement, bounds=bounds, together=1, seconds=1, client_share=0.1
    )  # fmt: skip


ALIKE = Agreement(requests=4, equal=2, within_tolerance=1, refused_by_both=1)
ONE_OFF = Agreement(requests=4, equal=3, differing=1, first=[Apart(line=3, where=".y: 1 and 2", difference=1.0)])


@pytest.mark.parametrize(
    ("agreement", "bounds", "p99_ms", "beyond"),
    [
        (ALIKE, Bounds(tolerance=0), 4, 0),
        (ALIKE, Bounds(tolerance=0, p99_ratio=1.0), 4, 0),
        (ALIKE, Bounds(tolerance=0, p99_ratio=1.0), 4.1, 1),
        (ALIKE, Bounds(tolerance=0, p99_ratio=1.0), math.nan, 1),
        (ONE_OFF, Bounds(tolerance=0), 4, 1),
        (ONE_OFF, Bounds(tolerance=0, agreement=0.75), 4, 0),
        (ONE_OFF, Bounds(tolerance=0, p99_ratio=0.5), 4, 2),
        (Agreement(), Bounds(tolerance=0), 4, 1),
        (Agreement(requests=4, failed=4), Bounds(tolerance=0, agreement=0), 4, 1),
        (Agreement(requests=4, refused_by_both=4), Bounds(tolerance=0), 4, 1),
        (Agreement(requests=4, refused_by_both=3, differing=1), Bounds(tolerance=0, agreement=0.5), 4, 0),
    ],
)
def test_each_bound_counts(agreement: Agreement, bounds: Bounds, p99_ms: float, beyond: int) -> None:
    found = comparison(agreement, bounds, p99_ms=p99_ms)
    assert len(found.beyond) == beyond
    assert msgspec.json.decode(msgspec.json.encode(found.as_record()))["within_bounds"] is (beyond == 0)
    if beyond:
        with pytest.raises(BeyondBounds):
            found.check()
    else:
        found.check()


def test_the_first_that_differ_are_kept_and_no_more() -> None:
    agreement = Agreement()
    for line in range(MOST_TOLD + 5):
        agreement.note(Apart(line=line, where=""))
    assert [one.line for one in agreement.first] == list(range(MOST_TOLD))
