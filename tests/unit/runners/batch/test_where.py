"""`--where` means what SQL means by it: held against SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import UsageError
from onward.runners.batch.where import Condition

TABLE = pa.record_batch({
    "a": pa.array([1, 2, None, -3, 40], pa.int64()), "b": pa.array([0.5, None, 2.0, -1.0, 2.0]),
    "t": pa.array(["x", "y'z", None, "", "Xyz"]), "a b": pa.array([1, 2, 3, 4, 5]),
})  # fmt: skip


def sqlite(condition: str) -> list[int]:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("pragma case_sensitive_like = on")
        connection.execute('create table r (place, a, b, t, "a b")')
        rows = [(at, *row.values()) for at, row in enumerate(TABLE.to_pylist())]
        connection.executemany("insert into r values (?, ?, ?, ?, ?)", rows)
        found = [row[0] for row in connection.execute(f"select place from r where {condition} order by place")]
    connection.close()
    return found


@pytest.mark.parametrize("condition", [
    "a > 1", "a <> 2", "a != 2 and b = 2.0", "not a = 1", "a is null", "a is not null or t = ''", "t = 'y''z'",
    "a in (1, 2, -3)", "a not in (1, 2)", "b between -1 and 1", "b not between 0 and 1", "t like '%y%'",
    "t not like 'X%'", "a + b * 2 > 2", "(a + 1) * 2 >= 4 and not (b < 0)", '"a b" = 3', "a - -1 = 2", "-a = 3",
    "a = 1 or a = 2 and b is null", "not not a = 1", "1 = 1", "t = t", "a >= 1.5",
])  # fmt: skip
def test_rows_are_those_that_sql_takes(condition: str) -> None:
    assert Condition(condition, TABLE.schema).places(TABLE).tolist() == sqlite(condition)


COMPARISONS = st.builds(
    "{} {} {}".format, st.sampled_from(["a", "b", '"a b"', "a + 1"]),
    st.sampled_from(["=", "<", ">=", "<>"]), st.integers(-4, 5),
)  # fmt: skip
CONDITIONS = st.recursive(
    COMPARISONS | st.sampled_from(["a is null", "b is not null", "t like 'x%'", "a in (1, 40)"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(CONDITIONS)
def test_any_condition_takes_the_rows_that_sql_takes(condition: str) -> None:
    assert Condition(condition, TABLE.schema).places(TABLE).tolist() == sqlite(condition)


@pytest.mark.parametrize("condition", [
    "", "a >", "a = 1 b", "none = 1", "a in 1", "a in ()", "a like b", "a between 1", "(a = 1", "a ~ 1", "a = 'open",
    "a not 1", "(" * 500 + "a = 1" + ")" * 500, "; drop table r", "a = 1 --",
])  # fmt: skip
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        Condition(condition, TABLE.schema).places(TABLE)


@pytest.mark.parametrize("condition", ["t > 1", "a like 'x'", "t + 1 = 2", "a", "not t"])
def test_types_that_do_not_fit_are_refused(condition: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        Condition(condition, TABLE.schema).places(TABLE)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab t'\"()=<>,.+-*/1not null andorinlike", max_size=30))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    with suppress(UsageError):
        Condition(text, TABLE.schema).places(TABLE)
