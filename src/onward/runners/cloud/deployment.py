"""What is deployed, in facts that every target writes down in its own words: so they all say the same.

Knows the server's options and routes; knows no target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from onward.runners.cloud.packages import Packaged
from onward.runners.serve.server import ServeOptions

PORT = 8000
ADMIN_PORT = 8002
UID = 10001
VENV = PurePosixPath("/opt/onward")
REPOSITORY = PurePosixPath("/srv/onward/repository")
ACTIONS = "actions.toml"
STATE = PurePosixPath("/var/lib/onward")
SCRATCH = PurePosixPath("/tmp")  # of the container, which is its own
LIVE = "/v2/health/live"
READY = "/v2/health/ready"
METRICS = "/metrics"
GRACE_S = 5
"""How long a server accepts on after SIGTERM, while load balancers notice that it is not ready."""

_ROOMY = 1.5
_MEMORY_STEP_BYTES = 64 << 20
_QUEUE_S = 0.1
_UNMEASURED_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What one replica took when it was started and asked for a few seconds; `measured` false: an estimate by size.

    `peak_bytes` is the resident memory at its highest, `start_s` from spawn to ready, `answers_per_s` by model in a
    closed loop, all on `cores` cores that the caller shared.
    """

    measured: bool
    peak_bytes: int
    start_s: float
    cores: int
    answers_per_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment of packages: `min_replicas` to `max_replicas` equal servers of `cpus` cores each.

    `secrets` are the variables that `actions`, the operator's file, takes secrets from.
    """

    name: str
    packages: tuple[Packaged, ...]
    sizing: Sizing
    image: str
    base: str
    namespace: str = "default"
    min_replicas: int = 2
    max_replicas: int = 10
    cpus: float = 1.0
    memory_bytes: int = 0
    canary_percent: int = 0
    storage_uri: str = ""
    actions: Path | None = None
    secrets: tuple[str, ...] = ()
    prefix: Path = Path("/opt")

    @property
    def decides(self) -> bool:
        """Whether it keeps decisions: then it needs a store, which several replicas share."""
        return any(one.decides for one in self.packages)

    @property
    def devices(self) -> frozenset[str]:
        """The execution providers besides the processor that packages would use."""
        return frozenset(name for one in self.packages for name in one.providers if name != "cpu")

    @property
    def extras(self) -> frozenset[str]:
        """The optional parts of Onward that its packages need."""
        return frozenset(extra for one in self.packages for extra in one.extras)

    @property
    def version(self) -> str:
        """The version of the only package that was asked for; of several, what their digests make."""
        asked = [one for one in self.packages if one.asked]
        return asked[0].version if len(asked) == 1 else self.image.rpartition(":")[2]

    def command(self, place: PurePosixPath = REPOSITORY.parent, program: str = str(VENV / "bin" / "onward"),
                repository: str = "") -> list[str]:  # fmt: skip
        """The server's command, one argument each: it serves what is there, and nothing that appears later.

        `place` is where repository and actions lie; a `repository` of another place may be given.
        """
        actions = ["--actions", str(place / ACTIONS)] if self.actions else []
        repository = repository or str(place / REPOSITORY.name)
        return [
            program, "serve", repository, "--host", "0.0.0.0", "--insecure", "--port", str(PORT),
            "--admin-port", str(ADMIN_PORT), "--watch-interval", "0", "--drain-grace", str(GRACE_S), *actions,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """The server's environment. Where it decides, the store and the key come from the target besides."""
        return {"HOME": str(SCRATCH), "ONWARD_CACHE": str(SCRATCH / "onward"), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def stop_s(self) -> int:
        """How long a server may take from SIGTERM to its end: grace, open requests, then models and store."""
        return GRACE_S + 2 * math.ceil(ServeOptions(repository=Path()).drain_timeout_s) + 5

    @property
    def start_limit_s(self) -> int:
        """How long a replica may take to become ready before it is given up: ten times what it took here."""
        return max(60, math.ceil(10 * self.sizing.start_s))

    @property
    def memory_limit_bytes(self) -> int:
        """The memory of a replica: as asked for, or half again what it took at its highest."""
        wanted = self.memory_bytes or int(self.sizing.peak_bytes * _ROOMY)
        return math.ceil(wanted / _MEMORY_STEP_BYTES) * _MEMORY_STEP_BYTES

    @property
    def queue_metrics(self) -> dict[str, int]:
        """By metric, how much may wait in one replica before another one is started.

        Rows: what takes 0.1 s at the rate measured of the slowest model, and at most a quarter of what the smallest
        queue holds: a target beyond the queue's end would never be seen, and requests would be refused for ever.
        Tokens: half of what the smallest queue holds.
        """
        found: dict[str, int] = {}
        batched = [one for one in self.packages if not one.queue_tokens]
        if batched:
            rates = [self.sizing.answers_per_s.get(one.name, 0.0) for one in batched]
            known = [rate for rate in rates if rate > 0]
            wanted = round(_QUEUE_S * min(known)) if known else _UNMEASURED_ROWS
            found["onward_queue_rows"] = max(1, min(wanted, min(one.queue_rows for one in batched) // 4))
        tokens = [one.queue_tokens for one in self.packages if one.queue_tokens]
        if tokens:
            found["onward_queued_tokens"] = max(1, min(tokens) // 2)
        return found
