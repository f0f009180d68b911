"""Transcription over HTTP: Onward beside faster-whisper in FastAPI, on the same weights and sounds.

    python -m bench.transcriptions [--rounds N] [--output FILE]

Twenty sentences that the gallery's voice says, as WAV files, to `POST /v1/audio/transcriptions`: one at a time, and
four at a time. Greedy and in int8 for all. In every round each server is started afresh, and the order moves on by
one. The words that each gets wrong are told beside its speed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench import machine
from bench.environments import ensure_environment
from bench.layout import LOGS, REPOSITORIES, ROOT
from bench.peers.contender import Launch, Served
from bench.peers.onward.contender import Onward
from bench.processes import Server, free_port

CLIPS = 20
TOGETHER = (1, 4)
REPOSITORY = ROOT / "var" / "repository"
PACKAGE = REPOSITORY / "transcriber" / "1.0.0"
ROUTE = "/v1/audio/transcriptions"
_BOUNDARY = b"bench-boundary-7d1f"
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A sentence, as a request body with its sound, and how long that lasts."""

    said: str
    body: bytes
    lasts_s: float


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.transcriptions", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    facts = machine.facts()
    for found in measure(options.contenders, options.rounds):
        if options.output:  # after every round: what ends the rest takes nothing away
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({"machine": facts, **found}, indent=2) + "\n")


def measure(names: Sequence[str], rounds: int) -> Iterator[Figures]:
    """After every round: all rounds so far, and the medians of each contender."""
    clips = spoken()
    every: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            port = free_port()
            launch, ready = CONTENDERS[name](port)
            with Server(launch, port, LOGS / f"transcriptions-{name}.log") as server:
                server.wait_ready(ready, timeout_s=120)
                _ask(port, clips[0])
                told = {f"{together} at a time": _loaded(port, clips, together) for together in TOGETHER}
                every[name].append(told | {"memory_bytes": server.usage().memory_bytes})
            print(f"round {number + 1}, {name}: {json.dumps(told)}", flush=True)
        medians = {name: _median(told) for name, told in every.items()}
        yield {"sound_s": sum(clip.lasts_s for clip in clips), "medians": medians, "every_round": every}


def spoken() -> list[Clip]:
    """The first sentences of the transcriber's test set, said by the package `voice`."""
    from onward.streaming import StreamingPipeline

    said = (ROOT / "gallery" / "transcriber" / "sentences.txt").read_text("utf-8").splitlines()[:CLIPS]
    with StreamingPipeline.open(REPOSITORY / "voice" / "1.0.0", check=False) as voice:
        return [_clip(text, bytes(voice({"text": text}).answer["audio"].data)) for text in said]


def _clip(said: str, sound: bytes) -> Clip:
    with wave.open(io.BytesIO(sound)) as reader:
        lasts_s = reader.getnframes() / reader.getframerate()
    head = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntranscriber\r\n' % _BOUNDARY
    head += b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n' % _BOUNDARY
    head += b"Content-Type: audio/wav\r\n\r\n"
    return Clip(said=said, body=b"%b%b\r\n--%b--\r\n" % (head, sound, _BOUNDARY), lasts_s=lasts_s)


def _ask(port: int, clip: Clip) -> tuple[str, float]:
    """What a server hears, and how long that took, in seconds."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(
        "POST", ROUTE, clip.body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY.decode()}"}
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {body[:500]!r}")
    return str(json.loads(body)["text"]), time.perf_counter() - started


def _loaded(port: int, clips: Sequence[Clip], together: int) -> Figures:
    """Every clip once for one at a time, twice for more."""
    from gallery.transcriber.evaluate import distance, words

    asked = [*clips] if together == 1 else [*clips, *clips]
    started = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        heard = list(pool.map(lambda clip: _ask(port, clip), asked))
    took_s = time.perf_counter() - started
    wrong = sum(distance(words(clip.said), words(text)) for clip, (text, _) in zip(asked, heard, strict=True))
    return {
        "clips_per_s": len(asked) / took_s,
        "times_real_time": sum(clip.lasts_s for clip in asked) / took_s,
        "p50_ms": statistics.median(lasted_s for _, lasted_s in heard) * 1e3,
        "longest_ms": max(lasted_s for _, lasted_s in heard) * 1e3,
        "word_error_rate": wrong / sum(len(words(clip.said)) for clip in asked),
    }


def _median(rounds: Sequence[Figures]) -> Figures:
    median: Figures = {load: {key: statistics.median(one[load][key] for one in rounds) for key in rounds[0][load]}
                       for load in rounds[0] if load != "memory_bytes"}  # fmt: skip
    return median | {"memory_bytes": statistics.median(one["memory_bytes"] for one in rounds)}


def _onward(port: int) -> tuple[Launch, str]:
    if not (PACKAGE / "onward.lock").exists():
        raise SystemExit("the package transcriber is not built: run `python -m gallery build transcriber` first")
    contender, served = Onward(), Served(name="transcriber", folder=PACKAGE, form="audio")
    REPOSITORIES.mkdir(parents=True, exist_ok=True)
    return contender.launch(served, {}, port), contender.ready_path(served)


def _faster_whisper(port: int, *, workers: int) -> tuple[Launch, str]:
    argv = [str(ensure_environment("faster_whisper")), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"PYTHONPATH": str(ROOT), "BENCH_WEIGHTS": str(PACKAGE), "BENCH_THREADS": str(threads),
                   "BENCH_WORKERS": str(workers)}  # fmt: skip
    return Launch(argv=[*argv, "bench.peers.faster_whisper.serve:application"], environment=environment), "/ready"


CONTENDERS: dict[str, Callable[[int], tuple[Launch, str]]] = {
    "onward": _onward,
    "faster-whisper": lambda port: _faster_whisper(port, workers=1),
    "faster-whisper, 2 workers": lambda port: _faster_whisper(port, workers=2),
}

if __name__ == "__main__":
    sys.exit(main())
