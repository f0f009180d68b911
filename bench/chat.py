"""Chat over HTTP, token by token: Onward beside llama.cpp's own server, llama-cpp-python's, and the engine alone.

    python -m bench.chat [--rounds N] [--output FILE]

The same weights (the gallery's SmolLM2-135M), slots, context and threads for all, greedy, the same prompts. In every
round each server is started afresh, and the order moves on by one. One stream: prompts one after the other. Eight
streams: eight at a time. The engine alone is asked in its process, without HTTP: the limit of the two that use it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import machine
from bench.environments import ensure_environment
from bench.layout import ROOT
from bench.load.streaming import chat
from bench.peers.contender import Launch
from bench.processes import Server, free_port

SLOTS, CONTEXT_TOKENS = 8, 1024
TOKENS = 96
LEAST_ANSWERED = 0.95  # of the tokens asked for: a story ends early, or a character takes two tokens
GGUF = ROOT / "var" / "repository" / "assistant-llm" / "1.0.0" / "model.gguf"
TOPICS = (
    "the sea", "an old train", "bread", "the city of Rome", "a lost dog", "winter", "the moon", "a bicycle", "tea",
    "a garden", "the first telephone", "mountains", "a violin", "rain", "a small library", "the desert",
    "an apple tree", "bees", "glass", "a lighthouse", "chess", "the river Nile", "wool", "a market",
)  # fmt: skip
PYTHON = ROOT / ".venv" / "bin" / "python"
CONTENDERS = ("onward", "llama.cpp's server", "llama-cpp-python's server", "the engine alone")
Figures = dict[str, Any]


def body(topic: str, tokens: int = TOKENS) -> dict[str, Any]:
    """One request: a story, of which so many tokens are wanted."""
    messages = [{"role": "user", "content": f"Write a long story about {topic}, with many characters."}]
    return {"model": "chat", "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}


LOADS = {"1 stream": (1, TOPICS[:6]), "8 streams": (8, TOPICS)}


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.chat", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    every: dict[str, list[Figures]] = {name: [] for name in options.contenders}
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        folder = Path(place)
        write_repository(folder / "repository")
        for number in range(options.rounds):
            order = [*options.contenders[number % len(options.contenders):],
                     *options.contenders[: number % len(options.contenders)]]  # fmt: skip
            for name in order:
                found = _alone(folder) if name == "the engine alone" else _served(name, folder)
                every[name].append(found)
                print(f"round {number + 1}, {name}: {json.dumps(found)}", flush=True)
    medians = {name: _median(rounds) for name, rounds in every.items()}
    for name, found in medians.items():
        for load in LOADS:
            one = found[load]
            print(f"{name:<27} {load:<10} {one['tokens_per_s']:7.1f} tokens/s, first {one['first_token_ms']:6.1f} ms, "
                  f"per token p50 {one['token_p50_ms']:5.1f}, p99 {one['token_p99_ms']:6.1f} ms")  # fmt: skip
        print(f"{name:<27} {found['memory_bytes'] / 1e6:.0f} MB")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": machine.facts(), "rounds": options.rounds, "medians": medians, "every_round": every}
        options.output.write_text(json.dumps(told, indent=2) + "\n")


def write_repository(folder: Path) -> None:
    """The package `chat`: the same weights with the bench's slots and context."""
    from onward.package.assembly import assemble

    package = folder / "chat" / "1.0.0"
    package.mkdir(parents=True)
    os.link(GGUF, package / "model.gguf") if GGUF.stat().st_dev == package.stat().st_dev else (
        package / "model.gguf"
    ).write_bytes(GGUF.read_bytes())
    text = (GGUF.parent / "onward.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("slots", "context_tokens"))]
    text = "\n".join(lines).replace('name = "assistant-llm"', 'name = "chat"')
    text = text.replace(
        'file = "model.gguf"', f'file = "model.gguf"\nslots = {SLOTS}\ncontext_tokens = {CONTEXT_TOKENS}'
    )
    (package / "onward.toml").write_text(text + "\n", encoding="utf-8")
    assemble(package)


def _served(name: str, folder: Path) -> Figures:
    port = free_port()
    threads = str(os.cpu_count() or 1)
    path = "/v1/models"
    if name == "onward":
        argv = [str(ROOT / ".venv" / "bin" / "onward"), "serve", str(folder / "repository"), "--port", str(port)]
        launch = Launch(argv=[*argv, "--admin-port", str(port + 1)])
        path = "/v2/health/ready"
    elif name == "llama.cpp's server":
        argv = [str(PYTHON), "-m", "bench.peers.xllamacpp.serve", "http", str(port), str(GGUF), str(SLOTS)]
        launch = Launch(argv=[*argv, str(CONTEXT_TOKENS), threads])
        path = "/health"
    else:
        python = ensure_environment("llama_cpp_python")
        argv = [str(python), "-m", "llama_cpp.server", "--model", str(GGUF), "--port", str(port), "--n_ctx",
                str(CONTEXT_TOKENS), "--n_threads", threads, "--n_threads_batch", threads]  # fmt: skip
        argv += ["--interrupt_requests", "False"]  # its default breaks a stream off where another request comes
        launch = Launch(argv=argv)
    with Server(launch, port, folder / "log") as server:
        server.wait_ready(path, timeout_s=120)
        chat(port, [body("warmth", 16)], together=1)
        found: Figures = {
            load: chat(port, [body(topic) for topic in topics], together=together)
            for load, (together, topics) in LOADS.items()
        }
        for load, (_, topics) in LOADS.items():
            if found[load]["tokens"] < LEAST_ANSWERED * TOKENS * len(topics):
                raise SystemExit(f"{name}, {load}: only {found[load]['tokens']} of {TOKENS * len(topics)} tokens came")
        return found | {"memory_bytes": server.usage().memory_bytes}


def _alone(folder: Path) -> Figures:
    loads = {load: {"together": together, "bodies": [body(topic) for topic in topics]}
             for load, (together, topics) in LOADS.items()}  # fmt: skip
    file = folder / "bodies.json"
    file.write_text(json.dumps({"warm": [body("warmth", 16)], "loads": loads}), encoding="utf-8")
    argv = [str(PYTHON), "-m", "bench.peers.xllamacpp.serve", "alone", str(file), str(GGUF), str(SLOTS)]
    argv += [str(CONTEXT_TOKENS), str(os.cpu_count() or 1)]
    made = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(made.stderr[-2000:])
    told = json.loads(made.stdout.splitlines()[-1])
    return {**told["loads"], "memory_bytes": told["memory_bytes"]}


def _median(rounds: list[Figures]) -> Figures:
    median: Figures = {load: {key: statistics.median(one[load][key] for one in rounds) for key in rounds[0][load]}
                       for load in LOADS}  # fmt: skip
    return median | {"memory_bytes": statistics.median(one["memory_bytes"] for one in rounds)}


if __name__ == "__main__":
    sys.exit(main())
