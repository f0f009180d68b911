"""llama.cpp's own server, or the engine in a process without HTTP, by the same binding that Onward uses.

python serve.py http PORT GGUF SLOTS CONTEXT THREADS          serves until it is killed
python serve.py alone BODIES GGUF SLOTS CONTEXT THREADS       answers a JSON list of (bodies, how many together) lists
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import xllamacpp

from bench.load.streaming import Streamed, figures


def engine(gguf: str, slots: int, context_tokens: int, threads: int, port: int) -> Any:
    """The engine with its own settings but for slots, context and threads."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_parallel = slots
    parameters.n_ctx = slots * context_tokens
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.verbosity = -1
    if port:
        parameters.port = port
    return xllamacpp.Server(parameters)


def alone(server: Any, bodies: list[dict[str, Any]], together: int) -> dict[str, float]:
    """What the client of the servers measures, without any server between."""
    left = list(reversed(bodies))
    found: list[Streamed] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                body = left.pop()
            tokens_s: list[float] = []

            def take(chunk: Any, tokens_s: list[float] = tokens_s) -> bool:
                for choice in chunk.get("choices", ()):
                    if choice["delta"].get("content"):
                        tokens_s.append(time.perf_counter())
                return False

            asked_s = time.perf_counter()
            server.handle_chat_completions(body, take)
            with lock:
                found.append(Streamed(asked_s=asked_s, tokens_s=tuple(tokens_s)))

    started_s = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(together)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return figures(found, time.perf_counter() - started_s)


def main() -> None:
    """See the module."""
    mode, what, gguf, *numbers = sys.argv[1:]
    slots, context_tokens, threads = map(int, numbers)
    if mode == "http":
        server = engine(gguf, slots, context_tokens, threads, int(what))
        print(server.listening_address, flush=True)
        threading.Event().wait()
    server = engine(gguf, slots, context_tokens, threads, 0)
    loads = json.loads(Path(what).read_text(encoding="utf-8"))
    alone(server, loads["warm"], 1)
    found = {name: alone(server, load["bodies"], load["together"]) for name, load in loads["loads"].items()}
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    memory = next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    print(json.dumps({"loads": found, "memory_bytes": memory}), flush=True)


if __name__ == "__main__":
    main()
