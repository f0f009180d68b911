from __future__ import annotations

import itertools
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.package.graphsizes import MAX_UNFOLDED_NODES, Unfolding, bytes_of, elements_of, fits


@given(st.lists(st.integers(0, 1000), max_size=4))
def test_a_shape_has_the_product_of_its_sizes_in_elements(dims: list[int]) -> None:
    assert elements_of(dims) == math.prod(dims)


@pytest.mark.parametrize("dims", [[1 << 49], [1 << 30, 1 << 30], [(1 << 64) - 1], [1] * 65])
def test_what_no_memory_holds_is_no_shape(dims: list[int]) -> None:
    assert elements_of(dims) is None


@pytest.mark.parametrize(("datatype", "elements", "size"), [(1, 3, 12), (9, 3, 3), (22, 3, 2), (15, 1, 16), (99, 8, 1)])
def test_elements_take_the_bytes_of_their_kind(datatype: int, elements: int, size: int) -> None:
    assert bytes_of(elements, datatype) == size


def test_a_tensor_holds_what_it_says_or_not() -> None:
    assert fits(3, 1, raw_bytes=12, listed_bytes=0, texts=0) and not fits(3, 1, raw_bytes=11, listed_bytes=0, texts=0)
    assert fits(4, 6, raw_bytes=None, listed_bytes=1, texts=0) and not fits(
        5, 6, raw_bytes=None, listed_bytes=1, texts=0
    )
    assert fits(2, 8, raw_bytes=None, listed_bytes=0, texts=2) and not fits(3, 8, raw_bytes=9, listed_bytes=9, texts=2)


def chain(length: int, times: int) -> Unfolding:
    """A graph that calls a function, which calls the next `times` times, and so on."""
    found = Unfolding()
    names = [("", ""), *((("own", str(number))) for number in range(length))]
    for caller, called in itertools.pairwise(names):
        for _ in range(times):
            found.call(caller, called)
    found.node(names[-1])
    return found


def test_functions_may_unfold_to_a_million_nodes_and_not_to_more() -> None:
    assert chain(19, 2).problem() == "" and MAX_UNFOLDED_NODES > 2**19
    assert "unfold" in chain(20, 2).problem()


def test_a_long_chain_of_functions_takes_no_stack() -> None:
    assert chain(10 * sys.getrecursionlimit(), 1).problem() == ""


@pytest.mark.parametrize("ring", [1, 2, 5])
def test_functions_that_call_themselves_are_found(ring: int) -> None:
    found = chain(ring, 1)
    found.call(("own", str(ring - 1)), ("own", "0"))
    assert "calls itself" in found.problem()


def test_what_is_called_by_two_is_no_ring() -> None:
    found = Unfolding()
    for caller in ("a", "b"):
        found.call(("", ""), ("own", caller))
        found.call(("own", caller), ("own", "c"))
    found.call(("own", "a"), ("own", "b"))
    assert found.problem() == ""
