"""First answer and milliseconds an answer in a browser: `onward edge --target web` beside transformers.js.

    python -m bench.edge_web [--rounds N] [--texts N] [--output FILE]

The same model file (the package `embed`'s), the same tokenizer file, the same Chromium, the same number of threads, the
same host on loopback, which lets files be cached and gives both the headers that threads need. transformers.js is its
own published bundle with the runtime that it pins, and runs its tokenizer and the model in the page; Onward runs both
in a worker, as its page does, checks every file's digest and keeps it for offline use. Cold: a browser that has
seen neither. Warm: the same browser again, in a new page. Both must give the package's own vectors.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from bench import machine
from bench.layout import ROOT
from onward.package.package import open_package
from onward.pipeline import Pipeline
from onward.runners.agreement.inputs import inputs_of
from onward.runners.edge.web.browser import browser
from onward.runners.edge.web.npm import Library, library

PACKAGE = "embed"
TRANSFORMERS = Library(
    name="@huggingface/transformers", version="4.3.1", licence="Apache-2.0",
    integrity="5+voSeUCFK6PCKlY15dPhNOKq3/zOTxDN7oC+Wy9dFb1QZ0TSQomZRRy7URRK8YRuUoE9fGMQTTPC5d/pWBJhA==",
)  # fmt: skip
ITS_RUNTIME = Library(
    name="onnxruntime-web", version="1.31.0-dev.20260914-8d85527a0", licence="MIT",
    integrity="Iy7rtadoBgxS/LLvDr3QW38DB1PNXRnr0GJMcL0TAt7c9qjgVQl83UlGCVyeAnK2InpmW8Uc3PL8XIuqtDeF6g==",
)  # fmt: skip
THREADS = 2
PAGE = "<!doctype html><meta charset=utf-8><title>bench</title>"
ONWARD = """async ([texts, threads]) => {
    const { command, keepAll, start } = await import("./device.js");
    await start(() => {});
    const ask = async (text) => (await command("answer", text, {})).embedding;
    const measured = MEASURED;
    await keepAll();
    return measured;
}"""
THEIRS = """async ([texts, threads]) => {
    const { AutoModel, AutoTokenizer, env } = await import("./transformers.min.js");
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    env.localModelPath = "/models/";
    env.backends.onnx.wasm.wasmPaths = new URL("./runtime/", location).href;
    env.backends.onnx.wasm.numThreads = threads;
    const [tokenizer, model] = await Promise.all([
        AutoTokenizer.from_pretrained("embed"),
        AutoModel.from_pretrained("embed", { dtype: "fp32", device: "wasm" }),
    ]);
    const tokens = (text) => tokenizer(text, { truncation: true, max_length: 256 });
    const ask = async (text) => (await model(await tokens(text))).embedding.tolist()[0];
    return MEASURED;
}"""
MEASURED = """await (async () => {
    const first = await ask(texts[0]);
    const firstMs = performance.now();
    const answers = [first];
    for (const text of texts.slice(1)) answers.push(await ask(text));
    return { first_ms: firstMs, ms_per_answer: (performance.now() - firstMs) / (texts.length - 1), answers };
})()"""


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.edge_web", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        sites = {"onward": _ours(Path(place)), "transformers.js": _theirs(Path(place))}
        texts, wanted = _texts(options.texts)
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sites}
        for number in range(options.rounds):
            for name, site in sites.items():
                found = _round(site, ONWARD if name == "onward" else THEIRS, texts, wanted)
                rounds[name].append(found)
                print(
                    f"round {number + 1} {name:<16} " + ", ".join(f"{key} {value:.1f}" for key, value in found.items())
                )
        sizes = {name: _fetched(site) for name, site in sites.items()}
    told = {
        "machine": machine.facts(), "rounds": options.rounds, "texts": options.texts, "threads": THREADS,
        "libraries": {"transformers.js": TRANSFORMERS.version, "its runtime": ITS_RUNTIME.version},
        "medians": {name: _medians(found) for name, found in rounds.items()}, "bytes": sizes, "all": rounds,
    }  # fmt: skip
    ours, theirs = told["medians"]["onward"], told["medians"]["transformers.js"]
    for key in ours:
        mine, other = ours[key], theirs[key]
        print(f"{key:<24} onward {mine:8.1f}  transformers.js {other:8.1f}  ratio {other / mine:.2f}")
    mine, other = (sizes[name] / 1e6 for name in sites)
    print(f"{'megabytes fetched':<24} onward {mine:8.1f}  transformers.js {other:8.1f}  ratio {other / mine:.2f}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(told, indent=2) + "\n")


def _texts(count: int) -> tuple[list[str], list[list[float]]]:
    package = open_package(ROOT / "var" / "repository" / PACKAGE / "1.0.0")
    items = inputs_of(package, count + 50)[-count:]
    with Pipeline(package) as pipeline:
        return [str(item["text"]) for item in items], [pipeline(item).answer["embedding"] for item in items]


def _ours(place: Path) -> Path:
    argv = [sys.executable, "-m", "onward", "edge", PACKAGE, str(place / "onward"), "--target", "web", "--inputs", "0"]
    subprocess.run(argv, cwd=ROOT, capture_output=True, check=True)
    (place / "onward" / ".bench.html").write_text(PAGE, "utf-8")
    return place / "onward"


def _theirs(place: Path) -> Path:
    site, package = place / "theirs", ROOT / "var" / "repository" / PACKAGE / "1.0.0"
    for folder in (site / "runtime", site / "models" / PACKAGE / "onnx"):
        folder.mkdir(parents=True)
    shutil.copyfile(library(TRANSFORMERS) / "dist" / "transformers.min.js", site / "transformers.min.js")
    for name in ("ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"):
        shutil.copyfile(library(ITS_RUNTIME) / "dist" / name, site / "runtime" / name)
    model = site / "models" / PACKAGE
    shutil.copyfile(package / "model.onnx", model / "onnx" / "model.onnx")
    shutil.copyfile(package / "tokenizer.json", model / "tokenizer.json")
    (model / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}', "utf-8")
    (model / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "model_max_length": 256}', "utf-8"
    )
    (site / ".bench.html").write_text(PAGE, "utf-8")
    return site


def _round(site: Path, script: str, texts: list[str], wanted: list[list[float]]) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    handler = functools.partial(_Host, directory=str(site))
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    found = {}
    with tempfile.TemporaryDirectory(prefix="onward-profile-", ignore_cleanup_errors=True) as profile:
        for kind in ("cold", "warm"):
            with sync_playwright() as playwright:
                context = playwright.chromium.launch_persistent_context(
                    profile, executable_path=browser(), args=["--no-sandbox", "--no-first-run"]
                )
                page = context.new_page()
                page.set_default_timeout(120_000)
                page.goto(f"http://127.0.0.1:{host.server_address[1]}/.bench.html")
                told = page.evaluate(script.replace("MEASURED", MEASURED), [texts, THREADS])
                context.close()
            worst = max(
                abs(one - other)
                for pair in zip(told["answers"], wanted, strict=True)
                for one, other in zip(*pair, strict=True)
            )
            if worst > 1e-5:
                raise AssertionError(f"{site.name} gives other vectors: {worst}")
            found |= {f"{kind}_first_ms": told["first_ms"], f"{kind}_ms_per_answer": told["ms_per_answer"]}
    host.shutdown()
    host.server_close()
    return found


class _Host(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        pass


def _fetched(site: Path) -> int:
    """What a first visit fetches: all of theirs; of ours what is not for a graphics processor."""
    if not (site / "bundle.json").is_file():
        return sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    files = json.loads((site / "bundle.json").read_text("utf-8"))["files"]
    return sum(file["size_bytes"] for file in files if file["when"] != "webgpu")


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


if __name__ == "__main__":
    main()
