from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.errors import InputError, WrongDatatype
from onward.package.manifest import Feature, ProfileSource
from onward.prepare.profile import Features, PastEvent

FUNCTIONS = ("count", "sum", "mean", "minimum", "maximum", "distinct", "last", "last_n", "time_since")
KINDS = ("purchase", "refund", "view")


def event(number: int, at_s: float, data: dict[str, Any], *, kind: str = "purchase", late_s: float = 0.0) -> PastEvent:
    return PastEvent(event_id=f"e{number:04}", kind=kind, at_s=at_s, recorded_s=at_s + late_s, data=data)


def feature(function: Any, **more: Any) -> Feature:
    datatype = "INT64" if function in ("count", "distinct") else "FP64"
    more = {"name": "f", "kinds": ("purchase",), "datatype": datatype} | more
    if function not in ("count", "time_since"):
        more.setdefault("field", "amount")
    return Feature(function=function, **more)


def value(of: Feature, events: list[PastEvent], as_of_s: float, **source: Any) -> Any:
    features = Features(ProfileSource(entity="card", **source), [of])
    return features.compute(events, as_of_s=as_of_s).get("f")


# The same features by SQL over the raw events, independently of the code under test.

_AGGREGATES = {
    "count": "count(*)",
    "sum": "sum(x)",
    "mean": "sum(x) / count(*)",
    "minimum": "min(x)",
    "maximum": "max(x)",
    "distinct": "count(DISTINCT text)",
    "last": "arg_max(x, place)",
    "last_n": "list(x ORDER BY place DESC)[1:{n}]",
    "time_since": "$as_of - max(at_s)",
}


def recomputed(
    database: duckdb.DuckDBPyConnection,
    of: Feature,
    as_of_s: float,
    known_s: float | None,
    source: ProfileSource,
    kinds: set[str],
) -> Any:
    """One feature by a window query in DuckDB; None where no event counts."""
    window = ""
    for span_s in (of.window_s, source.ttl_s):
        window += f" AND at_s >= $as_of - {span_s!r}::DOUBLE" if span_s is not None else ""
    if of.function in ("count", "time_since"):
        counts = "TRUE"
    elif of.function == "distinct":
        counts = "text IS NOT NULL"
    else:
        counts = "x IS NOT NULL"
    missing = "NULL" if of.missing is None else f"{of.missing!r}::DOUBLE"
    query = f"""
        WITH visible AS (
            SELECT *, row_number() OVER (ORDER BY at_s DESC, event_id DESC) AS age
            FROM events WHERE at_s < $as_of AND recorded_s <= $known AND list_contains($all_kinds, kind)
        ), typed AS (
            SELECT at_s, kind, -age AS place,
                   coalesce(CASE WHEN json_type(data, '$.amount') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
                            THEN (data->>'$.amount')::DOUBLE END, {missing}) AS x,
                   CASE WHEN json_type(data, '$.amount') IN ('VARCHAR') THEN 's' || (data->>'$.amount')
                        WHEN json_type(data, '$.amount') IN ('BOOLEAN') THEN 'b' || (data->>'$.amount')
                        WHEN json_type(data, '$.amount') IN ('UBIGINT', 'BIGINT', 'DOUBLE')
                        THEN 'n' || ((data->>'$.amount')::DOUBLE)::VARCHAR END AS text
            FROM visible WHERE age <= {source.max_events}
        )
        SELECT count(*), {_AGGREGATES[of.function].format(n=of.n)}
        FROM typed WHERE list_contains($kinds, kind) AND {counts}{window}"""
    parameters = {
        "as_of": as_of_s,
        "known": math.inf if known_s is None else known_s,
        "kinds": list(of.kinds),
        "all_kinds": sorted(kinds),
    }
    found = database.execute(query, parameters).fetchone()
    assert found is not None
    return found[1] if found[0] else None


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def load(database: duckdb.DuckDBPyConnection, events: list[PastEvent]) -> None:
    rows = {
        "ids": [each.event_id for each in events],
        "kinds": [each.kind for each in events],
        "at": [each.at_s for each in events],
        "recorded": [each.recorded_s for each in events],
        "data": [json.dumps(each.data) for each in events],
    }
    database.execute(
        """CREATE OR REPLACE TABLE events AS SELECT unnest($ids::VARCHAR[]) AS event_id, unnest($kinds::VARCHAR[])
        AS kind, unnest($at::DOUBLE[]) AS at_s, unnest($recorded::DOUBLE[]) AS recorded_s, unnest($data::JSON[]) AS data
        """,
        rows,
    )


# Eighths add up without rounding, in any order; times are few, so that many are equal.
_amounts = st.one_of(st.integers(-800, 800).map(lambda eighths: eighths / 8), st.integers(-5, 5))
_odd = st.sampled_from(["a", "b", True, False, None])
_data = st.one_of(
    _amounts.map(lambda amount: {"amount": amount}),
    _amounts.map(lambda amount: {"amount": amount, "other": 1}),
    _odd.map(lambda amount: {"amount": amount}),
    st.just({}),
)
_times = st.integers(0, 16).map(lambda halves: 1_000_000 + halves / 2)
_spans = st.one_of(st.none(), st.sampled_from([0.5, 1.0, 3.0, 5.5]))
_events = st.lists(
    st.tuples(st.sampled_from(KINDS), _times, st.sampled_from([0.0, 0.0, 1.5, 10.0]), _data), min_size=1, max_size=40
)
_kinds = st.sampled_from([("purchase",), ("purchase", "view"), KINDS])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=_events,
    window_s=_spans,
    ttl_s=_spans,
    kinds=_kinds,
    as_of_s=st.one_of(_times, st.just(1_000_007.0)),
    known_s=st.one_of(st.none(), _times),
    most=st.sampled_from([1, 3, 10, 1000, 1000]),
    missing=st.one_of(st.none(), st.just(0.5)),
    shuffle=st.randoms(use_true_random=False),
)
def test_features_equal_a_recomputation_from_the_raw_events_by_sql(
    database: duckdb.DuckDBPyConnection, drawn: Any, window_s: Any, ttl_s: Any, kinds: Any, as_of_s: Any,
    known_s: Any, most: Any, missing: Any, shuffle: Any,
) -> None:  # fmt: skip
    events = [event(n, at, data, kind=kind, late_s=late) for n, (kind, at, late, data) in enumerate(drawn)]
    source = ProfileSource(entity="card", ttl_s=ttl_s, max_events=most)
    declared = [
        feature(
            function, name=function, kinds=kinds, window_s=window_s, n=3,
            missing=None if function in ("count", "time_since", "distinct") else missing,
        )
        for function in FUNCTIONS
    ]  # fmt: skip
    features = Features(source, [*declared, feature("count", name="other", kinds=("refund",))])
    load(database, events)
    shuffle.shuffle(events)
    computed = features.compute(events, as_of_s=as_of_s, known_s=known_s)
    expected = {one.name: recomputed(database, one, as_of_s, known_s, source, {*kinds, "refund"}) for one in declared}
    computed.pop("other", None)
    assert computed == {name: found for name, found in expected.items() if found is not None}


@settings(max_examples=60)
@given(_events, _spans, _times)
def test_a_history_that_is_kept_reads_as_of_any_time_as_if_it_had_been_computed_then(
    drawn: Any, window_s: Any, as_of_s: float
) -> None:
    events = [event(n, at, data, kind=kind) for n, (kind, at, _, data) in enumerate(drawn)]
    declared = [feature(function, name=function, kinds=KINDS, window_s=window_s, n=3) for function in FUNCTIONS]
    features = Features(ProfileSource(entity="card"), declared)
    assert features.history(events).read(as_of_s) == features.compute(events, as_of_s=as_of_s)


def test_what_happens_at_the_very_time_is_not_seen_but_the_window_includes_its_beginning() -> None:
    events = [event(n, at, {"amount": 1.0}) for n, at in enumerate((10.0, 20.0, 30.0))]
    assert value(feature("count", window_s=10.0), events, 30.0) == 1
    assert value(feature("count", window_s=10.0), events, 30.000001) == 1
    assert value(feature("count", window_s=20.0), events, 30.0) == 2
    assert value(feature("count"), events, 10.0) is None


def test_a_late_event_is_seen_only_by_who_knew_of_it() -> None:
    late = event(1, 10.0, {"amount": 5.0}, late_s=100.0)
    features = Features(ProfileSource(entity="card"), [feature("sum", default=0.0)])
    assert features.compute([late], as_of_s=50.0, known_s=50.0) == {"f": 0.0}
    assert features.compute([late], as_of_s=50.0, known_s=110.0) == {"f": 5.0}
    assert features.compute([late], as_of_s=50.0) == {"f": 5.0}


def test_of_two_events_at_one_time_the_one_with_the_later_id_is_the_latest() -> None:
    events = [event(2, 1.0, {"amount": 2}), event(1, 1.0, {"amount": 1}), event(0, 0.5, {"amount": 0})]
    assert value(feature("last"), events, 2.0) == 2.0
    assert value(feature("last_n", n=2), events, 2.0) == [2.0, 1.0]


def test_lists_of_one_event_stay_side_by_side_where_a_missing_field_has_a_stand_in() -> None:
    events = [event(n, n, {"item": n} | ({"stars": 4.5} if n != 2 else {})) for n in range(1, 4)]
    items = feature("last_n", name="items", field="item", n=9, datatype="INT64")
    stars = feature("last_n", name="stars", field="stars", n=9, datatype="FP32", missing=3.0)
    found = Features(ProfileSource(entity="user"), [items, stars]).compute(events, as_of_s=9.0)
    assert found == {"items": [3, 2, 1], "stars": [4.5, 3.0, 4.5]}
    assert [type(one) for one in found["items"]] == [int] * 3


def test_a_sum_does_not_depend_on_the_order_in_which_events_arrived() -> None:
    amounts = [0.1, 1e16, -1e16, 0.2, 1e-9]
    events = [event(n, n, {"amount": amount}) for n, amount in enumerate(amounts)]
    assert value(feature("sum"), events[::-1], 9.0) == value(feature("sum"), events, 9.0) == math.fsum(amounts)


@pytest.mark.parametrize("odd", ["12", True, None, [1], {"a": 1}, 1e301, 10**400])
def test_what_is_not_a_number_counts_in_no_sum(odd: Any) -> None:
    events = [event(1, 1.0, {"amount": 2.0}), event(2, 2.0, {"amount": odd})]
    assert value(feature("sum"), events, 9.0) == 2.0
    assert value(feature("maximum"), events, 9.0) == 2.0


def test_without_events_there_is_the_default_or_nothing() -> None:
    features = Features(
        ProfileSource(entity="card"),
        [feature("mean", name="a"), feature("mean", name="b", default=7.0), feature("last_n", name="c", default=())],
    )
    assert features.compute([], as_of_s=1.0) == {"b": 7.0, "c": []} == features.default


def features_that_fill() -> Features:
    source = ProfileSource(entity="user")
    both = [feature("last_n", name="history", datatype="INT64", default=()), feature("count", name="visits", default=0)]
    return Features(source, both, fills=["user", "history"])


def test_only_inputs_that_the_caller_leaves_out_are_filled() -> None:
    features, profile = features_that_fill(), {"history": [3, 4], "visits": 2}
    assert features.fill({"user": "u"}, profile) == {"user": "u", "history": [3, 4]}
    assert features.fill({"history": None}, profile) == {"history": [3, 4]}
    assert features.fill({"history": [9]}, profile) == {"history": [9]}
    assert features.fill({}, None) == {"history": []}


def test_without_a_store_what_the_item_gives_stands_for_the_profile() -> None:
    assert features_that_fill().given({"history": [9]}) == {"history": [9], "visits": 0}


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "\ud800"])
def test_an_entity_is_a_short_printable_text(name: str) -> None:
    with pytest.raises(InputError):
        features_that_fill().entity({"user": name})


def test_an_entity_may_be_left_out_or_be_bytes_but_nothing_else() -> None:
    features = features_that_fill()
    assert (features.entity({}), features.entity({"user": "ü".encode()})) == ("", "ü")
    for odd in (7, b"\xff", ["u"]):
        with pytest.raises(WrongDatatype):
            features.entity({"user": odd})
