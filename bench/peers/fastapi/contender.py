"""FastAPI on uvicorn (uvloop, httptools, no access log), no batching: what most teams write first.

Settings: the textbook endpoint (pydantic body, a plain function on the thread pool); an async endpoint that decodes
with orjson or msgspec and answers bytes; and two workers, as FastAPI's deployment guide advises for two cores.
"""

from __future__ import annotations

from bench.environments import ensure_environment, python_of
from bench.layout import ROOT
from bench.peers.contender import Launch, Served, Setting


class FastAPI:
    """FastAPI with the V2 JSON body; for the binary form, a raw float32 body."""

    name = "fastapi"

    def install(self) -> None:
        """Install the pinned packages."""
        ensure_environment("fastapi")

    def version(self) -> str:
        """What is measured."""
        return "FastAPI 0.165.0, uvicorn 0.54.0 (uvloop, httptools)"

    def settings(self, served: Served) -> list[Setting]:
        """Naive, msgspec, orjson, and two workers of each; onnxruntime threads 1 and 2."""
        naive = {"decode": "pydantic", "workers": 1, "threads": 1}
        if served.form == "json":
            fast = naive | {"decode": "msgspec"}
            return [
                naive,
                naive | {"workers": 2},
                fast,
                naive | {"decode": "orjson"},
                fast | {"workers": 2},
                fast | {"threads": 2},
            ]
        raw = naive | {"decode": "async"}
        return [raw, raw | {"workers": 2}, raw | {"threads": 2}, raw | {"decode": "thread"}]

    def launch(self, served: Served, setting: Setting, port: int) -> Launch:
        """Start uvicorn on the bench's application."""
        argv = [str(python_of("fastapi")), "-m", "uvicorn", "bench.peers.fastapi.serve:application"]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(setting["workers"])]
        argv += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        environment = {
            "PYTHONPATH": str(ROOT),
            "BENCH_PACKAGE": str(served.folder),
            "BENCH_NAME": served.name,
            "BENCH_FORM": served.form,
            "BENCH_DECODE": setting["decode"],
            "BENCH_THREADS": str(setting["threads"]),
        }
        return Launch(argv=argv, environment=environment)

    def dialect(self, served: Served, setting: Setting) -> str:
        """How requests carry the input."""
        return "plain"

    def ready_path(self, served: Served) -> str:
        """A route that answers once the model is open."""
        return "/ready"
