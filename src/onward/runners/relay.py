"""The relay as a process of its own: carries out what the outbox holds, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType

from onward.act.relay import Relay, RelayOptions
from onward.act.targets import load_targets
from onward.errors import Unavailable
from onward.runners.installation import open_keys, open_store

_log = logging.getLogger("onward.relay")
STOP_TIMEOUT_S = 60.0


def run_relay(store_url: str, *, actions: Path, key_file: Path | None, dry_run: bool) -> None:
    """Work until SIGTERM or SIGINT, then finish what is under way. Raises `Unavailable` if that takes too long."""
    targets = load_targets(actions)
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    with open_store(store_url, make=True) as store:
        relay = Relay(store, targets, keys=open_keys(store_url, key_file), options=RelayOptions(dry_run=dry_run))
        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            relay.start()
            _log.info("relay %s: %s", relay.owner, ", ".join(sorted(targets.names)) or "no action is allowed")
            ending.wait()
            _log.info("finishing what is under way")
            if not relay.stop(STOP_TIMEOUT_S):
                raise Unavailable("ended before everything was finished; what was under way is reconciled later")
            _log.info("bye")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
