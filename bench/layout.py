"""Where the bench keeps what it builds and what it finds. Knows paths only."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
PEERS = BENCH / "peers"
LUA = BENCH / "load" / "rotate.lua"
RESULTS = BENCH / "results"

VAR = ROOT / "var" / "bench"
VENVS = VAR / "venvs"
MODELS = VAR / "models"
BODIES = VAR / "bodies"
LOGS = VAR / "logs"
REPOSITORIES = VAR / "repositories"
