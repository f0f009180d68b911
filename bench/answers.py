"""Checks that a server answers right, under concurrency, before it is timed."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

from bench.exchange import Exchange, agree

CONCURRENCY = 16
PASSES = 2


class WrongAnswerError(Exception):
    """A server answered an inference request wrongly, so timing it would mean nothing."""


def check_answers(port: int, exchange: Exchange) -> int:
    """Send every body from 16 connections at once, in random order, and compare each answer with onnxruntime's own.

    Requests that shared a batch and got each other's rows would show here. Returns the number of answers checked.
    """
    order = list(range(len(exchange.bodies))) * PASSES
    random.Random(3).shuffle(order)
    shares = [order[start::CONCURRENCY] for start in range(CONCURRENCY)]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(pool.map(lambda share: _check_share(port, exchange, share), shares))


def _check_share(port: int, exchange: Exchange, share: list[int]) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    for index in share:
        connection.request("POST", exchange.path, exchange.bodies[index], exchange.headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise WrongAnswerError(f"body {index}: status {response.status}: {body[:300]!r}")
        try:
            given = exchange.decode(body, dict(response.getheaders()))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WrongAnswerError(f"body {index}: not the agreed form ({error!r}): {body[:300]!r}") from error
        if not agree(exchange.expected[index], given):
            raise WrongAnswerError(f"body {index}: expected {exchange.expected[index]}, was given {given}")
    connection.close()
    return len(share)
