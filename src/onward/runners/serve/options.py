"""What a server is told when it is started. Plain values: they also travel to the processes that serve together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve. `drain_grace_s` is how long SIGTERM keeps accepting while "not ready" spreads.

    The last four are of use where a package has a policy; see `DecisionOptions`. With more than one of `workers`, so
    many processes share the port for inference.
    """

    repository: Path
    host: str = "127.0.0.1"
    port: int = 8000
    admin_port: int = 8002
    workers: int = 1
    insecure: bool = False
    keep_versions: int = 1
    watch_interval_s: float = 1.0
    drain_grace_s: float = 0.0
    drain_timeout_s: float = 30.0
    store: str = "sqlite:///var/onward.db"
    actions: Path | None = None
    key_file: Path | None = None
    no_relay: bool = False
