"""mosec: a Rust front end with dynamic batching in front of Python worker processes.

Settings follow the "Performance tuning" chapter of its README: batch size and wait time, number of workers, another
(de)serialiser than the default JSON, a stage of its own for preparation, and the threads of the numeric library.
"""

from __future__ import annotations

import json

from bench.environments import ensure_environment, python_of
from bench.layout import ROOT
from bench.peers.contender import Launch, Served, Setting


class Mosec:
    """mosec with the V2 JSON body; for the binary form, a raw float32 body or mosec's own msgpack mixin."""

    name = "mosec"

    def install(self) -> None:
        """Install the pinned packages."""
        ensure_environment("mosec")

    def version(self) -> str:
        """What is measured."""
        return "mosec 0.9.8"

    def settings(self, served: Served) -> list[Setting]:
        """Batches of 1 to 128, waits of 1 (the smallest it takes) and 2 ms, one to three workers, codecs, stages."""
        plain = {"codec": "json", "workers": 1, "max_batch": 32, "wait_ms": 1, "threads": 1, "stages": 1}
        if served.form in {"image", "text"}:
            small = plain | {"max_batch": 8}
            staged = plain | {"stages": 2}
            return [plain, small, small | {"workers": 2}, plain | {"workers": 2}, staged, plain | {"threads": 2}]
        codec = "msgspec" if served.form == "json" else "raw"
        fast = plain | {"codec": codec}
        return [
            fast,
            fast | {"max_batch": 64},
            fast | {"max_batch": 128, "wait_ms": 2},
            fast | {"workers": 2},
            fast | {"workers": 2, "max_batch": 16},
            fast | {"workers": 2, "max_batch": 8},
            fast | {"workers": 3, "max_batch": 16},
            fast | {"threads": 2, "max_batch": 64},
            fast | {"max_batch": 1},
            plain if served.form == "json" else plain | {"codec": "msgpack"},
        ]

    def launch(self, served: Served, setting: Setting, port: int) -> Launch:
        """Start the bench's mosec service; its request queue holds more than any workload sends."""
        argv = [str(python_of("mosec")), "-m", "bench.peers.mosec.serve"]
        argv += ["--address", "127.0.0.1", "--port", str(port), "--timeout", "30000", "--log-level", "warning"]
        environment = {
            "PYTHONPATH": str(ROOT),
            "BENCH_PACKAGE": str(served.folder),
            "BENCH_NAME": served.name,
            "BENCH_FORM": served.form,
            "BENCH_SETTING": json.dumps(setting),
        }
        return Launch(argv=argv, environment=environment)

    def dialect(self, served: Served, setting: Setting) -> str:
        """How requests carry the input."""
        return "msgpack" if setting["codec"] == "msgpack" else "plain"

    def ready_path(self, served: Served) -> str:
        """mosec's index, which its documentation names as the health check."""
        return "/"
