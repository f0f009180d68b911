"""`intent` in invariant mode: the same answers to the last bit beside any others, at lengths from 1 to 256 tokens."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onward.package.assembly import assemble
from onward.package.digest import LOCK_FILE
from onward.pipeline import Pipeline
from onward.runners.serve.lane import Lane, answer
from onward.runners.serve.request import Waiting
from onward.telemetry import ModelMetrics
from onward.types import Array

REPOSITORY = Path(__file__).parents[2] / "var" / "repository"
BUILT = REPOSITORY / "intent" / "1.0.0"
LONGEST = 256
NAMES = ("probabilities", "sentence_embedding")
# What takes about ten minutes on two cores that are free. Lengths are as likely from 1 to 16 as from 16 to 256.
LONG_ROWS = 150_000


def opened(folder: Path, *, max_tokens: int, max_batch_size: int, mode: str) -> Pipeline:
    """The package with other settings, in a folder of its own."""
    if not (BUILT / LOCK_FILE).is_file() or importlib.util.find_spec("onnx") is None:
        pytest.skip("intent is not built")
    folder.mkdir(parents=True)
    for file in BUILT.iterdir():
        if file.name not in ("onward.toml", LOCK_FILE):
            shutil.copyfile(file, folder / file.name)
    text = (BUILT / "onward.toml").read_text("utf-8")
    text = text.replace("max_tokens = 256", f"max_tokens = {max_tokens}")
    text = text.replace("max_batch_size = 32", f'max_batch_size = {max_batch_size}\nmode = "{mode}"')
    (folder / "onward.toml").write_text(text, "utf-8")
    assemble(folder)
    return Pipeline.open(folder, check=False)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with pytest.MonkeyPatch.context() as patched:
        root = tmp_path_factory.mktemp("short")
        patched.setenv("ONWARD_CACHE", str(root / "cache"))
        with opened(root / "intent", max_tokens=32, max_batch_size=8, mode="invariant") as pipeline:
            yield pipeline


def texts(rng: np.random.Generator, count: int, longest: int) -> list[Array]:
    """Token ids of rows whose lengths are spread evenly over their logarithm, 1 and the longest among them."""
    lengths = np.exp(rng.uniform(0, np.log(longest + 0.99), count)).astype(int)
    lengths[:2] = 1, longest
    return [rng.integers(1000, 30_000, length) for length in lengths]


def feeds(rows: list[Array], more: int = 0) -> dict[str, Array]:
    """The rows below each other, filled up to the longest and `more`."""
    ids = np.zeros((len(rows), max(map(len, rows)) + more), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


def alone(pipeline: Pipeline, pool: list[Array]) -> list[bytes]:
    """The bits of each row when nobody shares its batch."""
    return [bits(pipeline.run(feeds([row]), NAMES), 0) for row in pool]


def bits(outputs: list[Array], row: int) -> bytes:
    return b"".join(output[row].tobytes() for output in outputs)


def differing(pipeline: Pipeline, pool: list[Array], wanted: list[bytes], rows: int, seed: int) -> int:
    """Of `rows` rows in batches of 1 to 64, drawn from the pool, how many have other bits than alone."""
    rng = np.random.default_rng(seed)
    wrong = done = 0
    while done < rows:
        chosen = rng.integers(0, len(pool), int(rng.integers(1, 65)))
        outputs = pipeline.run(feeds([pool[index] for index in chosen], more=int(rng.integers(0, 9))), NAMES)
        wrong += sum(bits(outputs, place) != wanted[index] for place, index in enumerate(chosen.tolist()))
        done += len(chosen)
    return wrong


def test_bits_are_those_of_a_row_alone_in_batches_of_any_size_and_length(short: Pipeline) -> None:
    assert short.batch_rows == 8, "rows share batches"
    pool = texts(np.random.default_rng(1), 40, 32)
    assert differing(short, pool, alone(short, pool), 400, seed=2) == 0


async def test_bits_are_those_of_a_row_alone_among_callers_of_the_server(short: Pipeline) -> None:
    pool = texts(np.random.default_rng(3), 60, 32)
    wanted = alone(short, pool)
    metrics = ModelMetrics("intent", "1.0.0")
    lane = Lane(short, metrics, inline=False)
    until_s = time.monotonic() + 60

    async def ask(row: Array) -> bytes:
        found = await answer(lane, Waiting(feeds([row]), NAMES, 1, len(row), None, until_s))
        return bits([found[name] for name in NAMES], 0)

    assert await asyncio.gather(*map(ask, pool)) == wanted
    assert metrics.batch_rows.total > sum(metrics.batch_rows.counts), "some shared a batch"
    await lane.drain()


def test_every_way_of_asking_gives_the_same_bits(short: Pipeline) -> None:
    said = ["cancel", "where is my parcel", "I was charged twice for March and I want the money for one of them back"]
    one_by_one = [short({"text": text}).tensors["probabilities"].tobytes() for text in said]
    together = [result.tensors["probabilities"].tobytes() for result in short.batch([{"text": text} for text in said])]
    assert together == one_by_one


def test_without_the_mode_bits_do_depend_on_who_shares_the_batch(tmp_path: Path) -> None:
    with opened(tmp_path / "intent", max_tokens=32, max_batch_size=8, mode="throughput") as pipeline:
        pool = texts(np.random.default_rng(1), 20, 32)
        assert differing(pipeline, pool, alone(pipeline, pool), 200, seed=2) > 0


@pytest.mark.long
def test_bits_are_those_of_a_row_alone_at_all_lengths_in_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    with opened(tmp_path / "intent", max_tokens=LONGEST, max_batch_size=32, mode="invariant") as pipeline:
        assert pipeline.batch_rows == 32
        pool = texts(np.random.default_rng(5), 1024, LONGEST)
        wanted = alone(pipeline, pool)
        wrong: list[int] = []

        def work(seed: int) -> None:
            wrong.append(differing(pipeline, pool, wanted, LONG_ROWS // 2, seed))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in (6, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == [0, 0]
