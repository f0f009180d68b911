"""The limit: onnxruntime in a loop, in one process, on rows that are already in memory.

"With the same load generator running" is meant literally. A server shares the machine with the load generator, so the
loop has to as well: `wrk` loads a responder that answers one canned reply for every row the loop has finished, no more.
The generator therefore sends the same bytes, at the rate the loop computes, and burns what it would burn against a
server of that speed. What counts is the loop's rows/s. The responder parses nothing but lengths; its own share of a
core is not measured apart (it is in the server's), so the limit is, if anything, slightly low.
"""

from __future__ import annotations

from bench.environments import ensure_environment, python_of
from bench.layout import ROOT
from bench.peers.contender import Launch, Served, Setting


class Limit:
    """onnxruntime in-process, beside the load generator."""

    name = "limit"

    def install(self) -> None:
        """Uses the bench's own environment."""
        ensure_environment("driver")

    def version(self) -> str:
        """What is measured."""
        return "onnxruntime 1.32.0 in-process loop"

    def settings(self, served: Served) -> list[Setting]:
        """Batches of 16 to 128 rows, one and two threads."""
        return [{"batch": batch, "threads": threads} for threads in (1, 2) for batch in (64, 16, 32, 128)]

    def launch(self, served: Served, setting: Setting, port: int) -> Launch:
        """Start the responder, which starts the loop."""
        argv = [str(python_of("driver")), "-m", "bench.peers.limit.responder", str(port)]
        argv += [str(served.folder), str(setting["batch"]), str(setting["threads"])]
        return Launch(argv=argv, environment={"PYTHONPATH": str(ROOT)})

    def dialect(self, served: Served, setting: Setting) -> str:
        """The same requests as Onward gets."""
        return "onward"

    def ready_path(self, served: Served) -> str:
        """Answers with the number of rows that the loop has finished."""
        return "/rows"
