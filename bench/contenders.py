"""The servers that the bench compares, by name."""

from __future__ import annotations

from bench.peers.contender import Contender
from bench.peers.fastapi.contender import FastAPI
from bench.peers.mosec.contender import Mosec
from bench.peers.onward.contender import Onward
from bench.peers.triton.contender import Triton

SUBJECT = "onward"
CONTENDERS: dict[str, Contender] = {one.name: one for one in (Onward(), Triton(), Mosec(), FastAPI())}
PEER_NAMES = tuple(name for name in CONTENDERS if name != SUBJECT)
